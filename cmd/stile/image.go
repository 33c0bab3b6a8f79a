package main

import (
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stile-vmm/stile/images"
)

// cached is one thing in the cache, for lists.
type cached struct {
	Kind    string    `json:"kind"`
	Key     string    `json:"key"`
	Path    string    `json:"path"`
	Size    int64     `json:"size"` // bytes on disk
	LastUse time.Time `json:"last_use"`
	Damage  string    `json:"damage,omitempty"`
}

func newImageCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "image",
		Short: "Show and remove what stile keeps in its cache",
		Long: `stile keeps unpacked kernels, kernels from packages or built here with their sources,
initramfs, userlands and the lab's saved states in a cache: $STILE_CACHE, or stile in
the user's cache folder ($XDG_CACHE_HOME, ~/.cache). Root takes only a folder that no other
user can change, and keeps kernel modules in /var/cache/stile. All of it is made again when it is missing
or damaged, and of each kind the most recently used entries are kept.`,
	}
	c.AddCommand(newImageListCommand(), newImagePruneCommand())
	return c
}

func newImageListCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "list",
		Short:   "List what is in the cache, the most recently used first",
		Example: "  stile image list",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			list, err := listCached()
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(list)
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "KIND\tSIZE\tLAST USE\tKEY")
			for _, e := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", e.Kind, roundSize(e.Size), e.LastUse.Format(time.DateTime), e.Key)
			}
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func listCached() ([]cached, error) {
	caches, err := images.OpenAll()
	if err != nil {
		return nil, err
	}
	list := []cached{}
	for _, cache := range caches {
		entries, err := cache.List()
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			list = append(list, cached{Kind: string(e.Kind), Key: e.Key, Path: e.Path, Size: e.Size, LastUse: e.LastUse})
		}
	}
	store, err := openLabStore()
	if err != nil {
		return nil, err
	}
	states, err := store.List()
	for _, s := range states {
		list = append(list, cached{Kind: "lab", Key: s.Key, Path: s.Path, Size: s.Disk, LastUse: s.Used, Damage: s.Damage})
	}
	return list, err
}

// roundSize prints a size in KiB or MiB, rounded up.
func roundSize(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%dK", (n+1<<10-1)>>10)
	}
	return fmt.Sprintf("%dM", (n+1<<20-1)>>20)
}
