package guest

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/images/kbuild"
	"github.com/stile-vmm/stile/lab"
)

// Names of kernels for the nested host, beside paths and versions of the distribution's packages.
const (
	LabKernelAuto    = ""        // the best that is there without waiting long
	LabKernelDefault = "default" // the guests' default one, which has no VFIO
	LabKernelHost    = "host"    // the one that runs here
	LabKernelBuilt   = "built"   // stile lab kernel build made it: the fastest, and it has iommufd
	LabKernelDebug   = "debug"   // the same with KASAN and lockdep
)

// packagedVersion is the packaged kernel that is taken where none is named.
const packagedVersion = "6.1"

// labKernel finds the kernel that l asks for, and fetches a packaged one. Where none is named it is the
// built one, if there is one: twice as fast as any other, or a packaged one that was fetched before. Without
// devices the guests' default kernel will do, which is there already; with devices it takes VFIO, and the
// distribution's has it.
func labKernel(ctx context.Context, cache *images.Cache, l LabSpec, t *lab.Topology, progress io.Writer) (*distro.Kernel, error) {
	say := func(line string) {
		if progress != nil {
			fmt.Fprintln(progress, "stile: "+line)
		}
	}
	switch l.Kernel {
	case LabKernelAuto:
		if built, ok := kbuild.Cached(cache, kbuild.Options{}); ok {
			return built, nil
		}
		if packaged, ok := distro.Lookup(cache, packagedVersion); ok {
			return packaged, nil
		}
		if t.Plain() {
			return defaultLabKernel(ctx, cache)
		}
		return distro.Fetch(ctx, cache, packagedVersion, say)
	case LabKernelDefault:
		if !t.Plain() {
			return nil, fmt.Errorf("the lab's kernel %q has no VFIO: topology %s needs another", l.Kernel, t.Name)
		}
		return defaultLabKernel(ctx, cache)
	case LabKernelHost:
		return distro.Host()
	case LabKernelBuilt, LabKernelDebug:
		config := kbuild.Lab
		if l.Kernel == LabKernelDebug {
			config = kbuild.LabDebug
		}
		if built, ok := kbuild.Cached(cache, kbuild.Options{Config: config}); ok {
			return built, nil
		}
		return nil, fmt.Errorf("the lab's kernel %q was not built yet: run `stile lab kernel build %s`", l.Kernel, config)
	}
	if isPath(l.Kernel) {
		return distro.FromPath(l.Kernel, l.Modules)
	}
	return distro.Fetch(ctx, cache, l.Kernel, say)
}

func isPath(name string) bool { return strings.Contains(name, "/") }

func defaultLabKernel(ctx context.Context, cache *images.Cache) (*distro.Kernel, error) {
	path, err := cache.DefaultKernel(ctx)
	return &distro.Kernel{Image: path, Release: images.DefaultKernelVersion()}, err
}
