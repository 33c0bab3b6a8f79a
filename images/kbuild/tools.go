package kbuild

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/stile-vmm/stile/internal/child"
)

// tools are the programs of a kernel build, with Debian's packages that have them.
var tools = []struct{ program, pkg string }{
	{"gcc", "gcc"}, {"ld", "binutils"}, {"make", "make"}, {"flex", "flex"}, {"bison", "bison"}, {"bc", "bc"}, {"lz4", "lz4"},
}

// Missing returns Debian's names of the packages that a build needs and this machine lacks. It takes some 20 ms.
func Missing(ctx context.Context) []string {
	var missing []string
	for _, t := range tools {
		if _, err := exec.LookPath(t.program); err != nil {
			missing = append(missing, t.pkg)
		}
	}
	if slices.Contains(missing, "gcc") {
		return append(missing, "libc6-dev", "libelf-dev")
	}
	for _, h := range []struct{ header, pkg string }{{"stdio.h", "libc6-dev"}, {"gelf.h", "libelf-dev"}} {
		cmd := exec.CommandContext(ctx, "gcc", "-E", "-x", "c", "-")
		cmd.Stdin = strings.NewReader("#include <" + h.header + ">\n")
		if child.Run(cmd) != nil {
			missing = append(missing, h.pkg)
		}
	}
	return missing
}

func checkTools(ctx context.Context) error {
	missing := Missing(ctx)
	if len(missing) == 0 || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("programs that build kernels are missing: apt-get install %s", strings.Join(missing, " "))
}

// compiler names the compiler and its version.
func compiler(ctx context.Context) (string, error) {
	out, err := child.Output(exec.CommandContext(ctx, "gcc", "--version"))
	if err != nil {
		return "", fmt.Errorf("gcc --version: %w", err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return first, nil
}
