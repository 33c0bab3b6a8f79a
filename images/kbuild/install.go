package kbuild

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// install puts what was built where an installed kernel has it.
func (b *build) install() error {
	text, err := os.ReadFile(filepath.Join(b.src, "include", "config", "kernel.release"))
	if err != nil {
		return err
	}
	release := strings.TrimSpace(string(text))
	boot := filepath.Join(b.dir, "boot")
	if err := os.Mkdir(boot, 0o755); err != nil {
		return err
	}
	for from, to := range map[string]string{"arch/x86/boot/bzImage": "vmlinuz-", ".config": "config-"} {
		if err := copyFile(filepath.Join(b.src, from), filepath.Join(boot, to+release)); err != nil {
			return err
		}
	}
	// Without depmod, which the machine may lack: package images does without its files.
	if err := b.make("INSTALL_MOD_PATH="+b.dir, "DEPMOD=true", "modules_install"); err != nil {
		return err
	}
	modules := filepath.Join(b.dir, "lib", "modules", release)
	for _, link := range []string{"build", "source"} {
		if err := os.RemoveAll(filepath.Join(modules, link)); err != nil {
			return err
		}
	}
	if err := installHeaders(b.src, filepath.Join(modules, "build")); err != nil {
		return fmt.Errorf("install what modules are built against: %w", err)
	}
	return nil
}

// headerFiles are what building a module takes besides the folders: the makefiles, the configuration, the exported
// symbols, and the program that checks objects.
var headerFiles = []string{
	"Makefile", ".config", "Module.symvers", "arch/x86/Makefile", "arch/x86/Makefile_32.cpu", "arch/x86/Makefile.postlink",
	"tools/objtool/objtool",
}

// headerFolders are taken whole, but for objects.
var headerFolders = []string{"include", "arch/x86/include", "scripts"}

// installHeaders copies what modules are built against from a built source, as the
// kernel's own packages of headers have it (scripts/package/install-extmod-build).
func installHeaders(src, dst string) error {
	for _, name := range headerFiles {
		err := copyFile(filepath.Join(src, name), filepath.Join(dst, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // not every version has each of them
		}
		if err != nil {
			return err
		}
	}
	for _, folder := range headerFolders {
		if err := copyFolder(filepath.Join(src, folder), filepath.Join(dst, folder)); err != nil {
			return err
		}
	}
	return nil
}

func copyFolder(src, dst string) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dst, strings.TrimPrefix(path, src))
		switch {
		case d.IsDir():
			return os.MkdirAll(to, 0o755)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, to)
		case filepath.Ext(path) == ".o" || filepath.Ext(path) == ".cmd":
			return nil
		}
		return copyFile(path, to)
	})
}

func copyFile(src, dst string) error {
	from, err := os.Open(src)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	to, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return err
	}
	return to.Close()
}
