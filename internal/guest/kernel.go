package guest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
)

// Names of kernels for guests, beside paths of files and of folders where a kernel was built, and versions of the
// distribution's packages.
const (
	KernelDefault = "default" // stile's own; "" is the same
	KernelHost    = "host"    // the one that runs here
)

// packaged is how a packaged kernel is named: 6.12, 6.12-cloud or linux-image-6.12.30-amd64, with or without the
// distribution's name in front, and behind it the suite that it comes from, if this system does not use that one: 7.2@sid.
var packaged = regexp.MustCompile(`^(?:(?:debian|ubuntu):)?(?:[0-9]+(?:\.[0-9]+)+(?:-[a-z][a-z0-9]*)?|linux-image-[a-z0-9.+~-]+)(?:@[a-z][a-z0-9-]*)?$`)

// validateKernel reports a kernel that can't be there.
func (s Spec) validateKernel() error { return s.noKernel(s.lookForKernel()) }

func (s Spec) lookForKernel() error {
	if s.Kernel == "" || s.Kernel == KernelDefault || s.Kernel == KernelHost || packaged.MatchString(s.Kernel) {
		return nil
	}
	info, err := os.Stat(s.Kernel)
	switch {
	case err != nil:
		return fmt.Errorf("kernel: %w; -k takes a file, a folder where a kernel was built, a lib/modules/RELEASE that holds one, a version such as 6.12, or host", err)
	case info.IsDir():
		_, err := distro.FromFolder(s.Kernel)
		return err
	}
	return readable(s.Kernel)
}

// kernelIsPath reports whether Kernel is a file or a folder.
func (s Spec) kernelIsPath() bool {
	return s.Kernel != "" && s.Kernel != KernelDefault && s.Kernel != KernelHost && !packaged.MatchString(s.Kernel)
}

// findKernel returns the kernel that s names, and fetches a packaged one. progress, if not nil, gets a line when it takes long.
func (s Spec) findKernel(ctx context.Context, cache *images.Cache, progress io.Writer) (*distro.Kernel, error) {
	k, err := s.namedKernel(ctx, cache, progress)
	if err == nil && s.Modules != "" {
		k.Modules = s.Modules
		k.Release = filepath.Base(s.Modules)
	}
	return k, err
}

func (s Spec) namedKernel(ctx context.Context, cache *images.Cache, progress io.Writer) (*distro.Kernel, error) {
	if packaged.MatchString(s.Kernel) {
		return distro.Fetch(ctx, cache, s.Kernel, func(line string) {
			if progress != nil {
				fmt.Fprintln(progress, "stile: "+line)
			}
		})
	}
	switch s.Kernel {
	case "", KernelDefault:
		path, err := cache.DefaultKernel(ctx)
		return &distro.Kernel{Image: path}, err
	case KernelHost:
		return distro.Host()
	}
	if tree, ok := strings.CutSuffix(s.Kernel, "/arch/x86/boot/bzImage"); ok {
		if k, err := distro.FromFolder(tree); err == nil {
			return k, nil
		}
	}
	return distro.FromPath(s.Kernel, s.Modules)
}
