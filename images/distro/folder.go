package distro

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/stile-vmm/stile/images"
)

// Open returns the kernel in a folder that has the layout of an installed system: that of an unpacked package, and of the
// cache. The kernel is boot/vmlinuz-RELEASE or lib/modules/RELEASE/vmlinuz, and there must be one only; its modules are in
// lib/modules/RELEASE. lib may be below usr.
func Open(dir string) (*Kernel, error) {
	found := kernelsIn(dir)
	if len(found) != 1 {
		return nil, fmt.Errorf("%s has %d kernels, boot/vmlinuz-RELEASE or lib/modules/RELEASE/vmlinuz, instead of one", dir, len(found))
	}
	for release, image := range found {
		return newKernel(image, modulesBelow(dir, release), release), nil
	}
	return nil, nil
}

func newKernel(image, modules, release string) *Kernel {
	k := &Kernel{Image: image, Modules: modules, Release: release}
	if modules != "" {
		k.Headers = existing(modules, "build")
	}
	return k
}

// kernelsIn returns the files of the kernels that are installed below dir, by their releases. That in boot, if there
// is one, may be a copy of the other.
func kernelsIn(dir string) map[string]string {
	found := make(map[string]string)
	for _, lib := range []string{"usr/lib", "lib"} {
		paths, _ := filepath.Glob(filepath.Join(escapeGlob(dir), lib, "modules", "*", images.KernelFile))
		for _, path := range paths {
			found[filepath.Base(filepath.Dir(path))] = path
		}
	}
	paths, _ := filepath.Glob(filepath.Join(escapeGlob(dir), "boot", images.KernelFile+"-*"))
	for _, path := range paths {
		_, release, _ := strings.Cut(filepath.Base(path), "-")
		found[release] = path
	}
	return found
}

// modulesBelow returns the folder with the modules of a kernel that is installed below root, "" if it has no modules.
func modulesBelow(root, release string) string {
	if dir := existing(root, "lib", "modules", release); dir != "" {
		return dir
	}
	return existing(root, "usr", "lib", "modules", release)
}

// openModules returns the kernel in its own lib/modules/RELEASE folder.
func openModules(dir string) (*Kernel, error) {
	image := filepath.Join(dir, images.KernelFile)
	info, err := os.Stat(image)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || !images.HoldsModules(dir) {
		return nil, errors.New("no kernel's lib/modules/RELEASE folder")
	}
	k := newKernel(image, dir, imageRelease(image))
	if k.Release == "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, err
		}
		k.Release = filepath.Base(abs)
	}
	return k, nil
}

// escapeGlob has filepath.Glob take a path as it is.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// existing joins a folder's path, and returns "" when it isn't there.
func existing(parts ...string) string {
	dir := filepath.Join(parts...)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return ""
	}
	return dir
}
