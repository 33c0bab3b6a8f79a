package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/stile-vmm/stile/images"
)

// versionInfo is what stile version prints.
type versionInfo struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	Kernel  string `json:"kernel"` // the default kernel's module and version
}

func newVersionCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print stile's version and that of the default kernel",
		Example: "  stile version --json",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			info := versionInfo{Version: versionString(), Go: runtime.Version(), Kernel: images.DefaultKernelVersion()}
			if asJSON {
				return printJSON(info)
			}
			fmt.Printf("stile %s (%s), default kernel %s\n", info.Version, info.Go, info.Kernel)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// versionString is what the linker set, or the module's version as go install records it.
func versionString() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}

func printJSON(v any) error {
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
