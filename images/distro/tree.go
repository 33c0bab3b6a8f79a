package distro

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// FromFolder returns the kernel in a folder: one where a kernel was built, a lib/modules/RELEASE that holds the kernel's own
// vmlinuz, or one with an unpacked package, as Open takes it.
func FromFolder(dir string) (*Kernel, error) {
	release, err := os.ReadFile(filepath.Join(dir, "include", "config", "kernel.release"))
	if err != nil {
		k, modulesErr := openModules(dir)
		if modulesErr == nil {
			return k, nil
		}
		k, openErr := Open(dir)
		if openErr != nil {
			return nil, fmt.Errorf("%s is neither a folder where a kernel was built (%w) nor a lib/modules/RELEASE with a kernel (%w) "+
				"nor that of an unpacked package (%w)", dir, err, modulesErr, openErr)
		}
		return k, nil
	}
	k := &Kernel{Release: strings.TrimSpace(string(release)), Headers: dir}
	var errs []error
	for _, name := range []string{"arch/x86/boot/bzImage", "vmlinux"} {
		k.Image = filepath.Join(dir, name)
		_, err := os.Stat(k.Image)
		if err == nil {
			k.Modules = builtModules(dir)
			return k, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("%s has no kernel built for x86-64; make bzImage makes one: %w", dir, errors.Join(errs...))
}

// builtModules returns dir if modules were built there, "" for a kernel without.
func builtModules(dir string) string {
	if info, err := os.Stat(filepath.Join(dir, "modules.order")); err != nil || info.Size() == 0 {
		return ""
	}
	return dir
}
