package mdev

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stile-vmm/stile/internal/hostpci"
)

const (
	busDevices  = "/sys/bus/mdev/devices"
	parentClass = "/sys/class/mdev_bus"
	pciDrivers  = "/sys/bus/pci/drivers"
	supported   = "mdev_supported_types"
)

// Host is where mediated devices are. Its methods may be called concurrently, also by
// several processes.
type Host struct {
	root  string
	pci   *hostpci.Host
	write hostpci.Writer
	// noticeAfter is how long the kernel may take for a write before the user is told.
	noticeAfter time.Duration
}

// New returns the host whose file system is below root. "/" is this host.
func New(root string) *Host {
	root = filepath.Clean(root)
	return &Host{root: root, pci: hostpci.New(root), write: fileWriter{root}, noticeAfter: 2 * time.Second}
}

// WithWriter returns a host that is changed through w and whose modules are loaded by
// load: for tests with a kernel of their own.
func (h *Host) WithWriter(w hostpci.Writer, load func(module string) error) *Host {
	with := *h
	with.write, with.pci = w, h.pci.WithWriter(w, load)
	return &with
}

// PCI returns the PCI side of the host.
func (h *Host) PCI() *hostpci.Host { return h.pci }

func (h *Host) path(p string) string { return filepath.Join(h.root, p) }

func (h *Host) exists(p string) bool {
	_, err := os.Lstat(h.path(p))
	return err == nil
}

// text returns an attribute without surrounding space, "" if it can't be read.
func (h *Host) text(p string) string {
	b, _ := os.ReadFile(h.path(p))
	return strings.TrimSpace(string(b))
}

// linkName returns the last component of where a link leads, "" if there is no link.
func (h *Host) linkName(p string) string {
	to, err := os.Readlink(h.path(p))
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

// names returns what is in a folder, sorted; nothing if it is not there.
func (h *Host) names(dir string) ([]string, error) {
	entries, err := os.ReadDir(h.path(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	list := make([]string, 0, len(entries))
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list, err
}

// fileWriter writes to files below a root.
type fileWriter struct{ root string }

func (f fileWriter) Write(w hostpci.Write) error {
	file, err := os.OpenFile(filepath.Join(f.root, w.Path), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(w.Value)
	return errors.Join(err, file.Close())
}
