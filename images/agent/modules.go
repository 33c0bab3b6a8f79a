package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images/kmod"
)

const modulesDir = "/lib/modules"

// setupModules makes the running kernel's modules found where they are looked for: those in dir, unless it is "", and what is there already.
func setupModules(dir string) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	place := filepath.Join(modulesDir, unix.ByteSliceToString(uts.Release[:]))
	if dir != "" {
		if err := linkModules(dir, place); err != nil {
			return fmt.Errorf("link the kernel's modules: %w", err)
		}
	}
	return makeNodes(place, "/dev")
}

func linkModules(dir, link string) error {
	if _, err := os.Stat(link); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	return os.Symlink(dir, link)
}

// makeNodes makes the device nodes in dev whose first use has the kernel load a module. modules is the folder of the running kernel's
// modules, with modules.devname, which has a line "MODULE NODE cMAJOR:MINOR" for each. Without that file it makes no nodes.
func makeNodes(modules, dev string) error {
	list, err := os.ReadFile(filepath.Join(modules, kmod.DevnameList))
	if err != nil {
		return nil // most kernels have none
	}
	for line := range strings.Lines(string(list)) {
		var module, name string
		var kind byte
		var major, minor uint32
		if n, _ := fmt.Sscanf(line, "%s %s %c%d:%d", &module, &name, &kind, &major, &minor); n < 5 || !filepath.IsLocal(name) {
			continue // a comment
		}
		if err := makeNode(filepath.Join(dev, name), kind, unix.Mkdev(major, minor), openNodes[name]); err != nil {
			return fmt.Errorf("device node %s: %w", name, err)
		}
	}
	return nil
}

func makeNode(path string, kind byte, number uint64, open bool) error {
	mode := map[byte]uint32{'c': unix.S_IFCHR, 'b': unix.S_IFBLK}[kind] | 0o600
	if open {
		mode |= 0o666
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := unix.Mknod(path, mode, int(number)); err == unix.EEXIST {
		return nil // the driver is there
	} else if err != nil {
		return err
	}
	return os.Chmod(path, os.FileMode(mode&0o777)) // whatever the umask
}
