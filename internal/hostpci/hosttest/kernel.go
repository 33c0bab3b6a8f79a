package hosttest

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/hostpci"
)

// Kernel reacts to writes to a tree as Linux does to those to sysfs: it is a
// hostpci.Writer. Drivers that modules hold appear when Load is called.
type Kernel struct {
	Tree *Tree
	// Matches is the driver that takes a function of itself, by address.
	Matches map[string]string
	// Modules can be loaded.
	Modules []string
	// Owned are the groups that a guest owns: no host driver may join them.
	Owned []int
	// Broken are drivers whose probe fails.
	Broken []string
	// Before is asked before each write takes effect, After afterwards. The write fails
	// with their error. Either may be nil.
	Before, After func(n int, w hostpci.Write) error

	mu     sync.Mutex
	writes []hostpci.Write
}

// Writes returns what was written so far.
func (k *Kernel) Writes() []hostpci.Write {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.writes)
}

// Load loads a module.
func (k *Kernel) Load(module string) error {
	if !slices.Contains(k.Modules, module) {
		return fmt.Errorf("modprobe: FATAL: Module %s not found", module)
	}
	k.Tree.Driver(module)
	return nil
}

// Write makes a write and its effects.
func (k *Kernel) Write(w hostpci.Write) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.writes)
	k.writes = append(k.writes, w)
	if k.Before != nil {
		if err := k.Before(n, w); err != nil {
			return err
		}
	}
	if err := k.react(w); err != nil {
		return &os.PathError{Op: "write", Path: w.Path, Err: err}
	}
	if k.After != nil {
		return k.After(n, w)
	}
	return nil
}

func (k *Kernel) react(w hostpci.Write) error {
	if _, err := os.Stat(k.Tree.Path(w.Path)); err != nil {
		return unix.ENOENT
	}
	driver := path.Base(path.Dir(w.Path))
	switch path.Base(w.Path) {
	case "driver_override":
		k.Tree.Write(w.Path, orNull(strings.TrimSpace(w.Value)))
	case "unbind":
		if !k.present(w.Value) || k.Tree.Driven(w.Value) != driver {
			return unix.ENODEV
		}
		k.Tree.Unbind(w.Value)
	case "bind":
		if !k.present(w.Value) || k.match(w.Value) != driver {
			return unix.ENODEV
		}
		return k.probe(w.Value, driver)
	case "drivers_probe":
		if !k.present(w.Value) {
			return unix.ENODEV
		}
		if driver := k.match(w.Value); driver != "" && k.Tree.Driven(w.Value) == "" {
			_ = k.probe(w.Value, driver) // a driver that declines is no error here
		}
	default:
		return unix.EACCES
	}
	return nil
}

func orNull(value string) string {
	if value == "" {
		return "(null)\n"
	}
	return value + "\n"
}

func (k *Kernel) present(address string) bool {
	_, err := os.Lstat(k.Tree.Path("/sys/bus/pci/devices/" + address))
	return err == nil
}

// match returns the loaded driver that a function goes to, "" for none.
func (k *Kernel) match(address string) string {
	driver := k.Matches[address]
	if override := k.Tree.Read(k.Tree.Folder(address) + "/driver_override"); override != "(null)" {
		driver = override
	}
	if _, err := os.Stat(k.Tree.Path("/sys/bus/pci/drivers/" + driver)); err != nil || driver == "" {
		return ""
	}
	return driver
}

func (k *Kernel) probe(address, driver string) error {
	if slices.Contains(k.Broken, driver) {
		return unix.EIO
	}
	group, _ := os.Readlink(k.Tree.Path(k.Tree.Folder(address) + "/iommu_group"))
	if !strings.Contains(driver, "vfio") {
		for _, owned := range k.Owned {
			if path.Base(group) == fmt.Sprint(owned) {
				return unix.EBUSY
			}
		}
	}
	k.Tree.Bind(address, driver)
	return nil
}
