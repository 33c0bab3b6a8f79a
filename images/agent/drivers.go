package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// moduleCount is what became of the modules of the initramfs.
type moduleCount struct {
	loaded, refused int
	first           string // the first that the kernel refused
	err             error
}

// failed counts a module that was not loaded.
func (c *moduleCount) failed(path string, err error) {
	if c.refused++; c.refused == 1 {
		c.first, c.err = filepath.Base(path), err
	}
}

// fault says that the kernel refused modules, nil if it took all of them.
func (c *moduleCount) fault() error {
	if c.refused == 0 {
		return nil
	}
	text := fmt.Sprintf("%d of %d modules were refused, %s first", c.refused, c.refused+c.loaded, c.first)
	if errors.Is(c.err, unix.ENOEXEC) || errors.Is(c.err, unix.EINVAL) {
		text += ": they were built for another kernel, or for another build of this one (vermagic); name those that belong to it with --modules"
	}
	return fmt.Errorf("%s: %w", text, c.err)
}

// blameModules adds to the error of a file system that the kernel lacks the modules that it refused.
func (g *guest) blameModules(err error) error {
	if fault := g.modules.fault(); fault != nil && errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w; %w", err, fault)
	}
	return err
}

// checkDrivers returns an error if the kernel has no driver for the port to the host, which would never appear. bus is /sys/bus.
func (g *guest) checkDrivers(bus string) error {
	if _, err := os.Stat(bus); err != nil {
		return nil // nothing is known
	}
	var lacks []string
	for _, d := range []struct{ driver, path string }{{"virtio_pci", "pci/drivers/virtio-pci"}, {"virtio_console", "virtio/drivers/virtio_console"}} {
		if _, err := os.Stat(filepath.Join(bus, d.path)); errors.Is(err, os.ErrNotExist) {
			lacks = append(lacks, d.driver)
		}
	}
	if len(lacks) == 0 {
		return nil
	}
	if fault := g.modules.fault(); fault != nil {
		return fmt.Errorf("no driver %s: %w", strings.Join(lacks, ", "), fault)
	}
	return fmt.Errorf("this kernel has no driver %s, neither built in nor as a module that was given: boot one that has it, or name the folder of its modules with --modules",
		strings.Join(lacks, ", "))
}
