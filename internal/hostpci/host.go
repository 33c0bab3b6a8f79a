package hostpci

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	pciDevices   = "/sys/bus/pci/devices"
	pciDrivers   = "/sys/bus/pci/drivers"
	driversProbe = "/sys/bus/pci/drivers_probe"
	mdevDevices  = "/sys/bus/mdev/devices"
	iommuGroups  = "/sys/kernel/iommu_groups"
)

// Host is where the PCI functions are. Its methods may be called concurrently, also by
// several processes: those that change something exclude each other.
type Host struct {
	tree  tree
	write Writer
	load  func(module string) error
	// claimed tells whether the kernel keeps a block device for itself; nil where /dev is not this host's.
	claimed func(path string) bool
	// lockPatience is how long another stile may hold the journal, noticeAfter how long a
	// write may take before the user is told what it waits for.
	lockPatience, noticeAfter time.Duration
}

// New returns the host whose file system is below root. "/" is this host.
func New(root string) *Host {
	root = filepath.Clean(root)
	h := newHost(root)
	h.write, h.load = fileWriter{&h.tree}, modprobe
	if root == "/" {
		h.claimed = claimed
	}
	return h
}

// WithWriter returns a host that is changed through w and whose modules are loaded by
// load: for tests with a kernel of their own.
func (h *Host) WithWriter(w Writer, load func(module string) error) *Host {
	with := newHost(h.tree.root)
	with.write, with.load = w, load
	return with
}

func newHost(root string) *Host {
	return &Host{tree: tree{root: root}, lockPatience: 10 * time.Second, noticeAfter: 2 * time.Second}
}

// Snapshot is what Scan found. But for the names it is not changed afterwards.
type Snapshot struct {
	// IOMMU is how this host's IOMMU does.
	IOMMU IOMMU `json:"iommu"`
	// Functions are sorted by address, Groups by number, Mediated by UUID.
	Functions []*Function `json:"functions"`
	Groups    []*Group    `json:"groups"`
	Mediated  []*Mediated `json:"mediated"`
	// HoldersKnown tells whether all processes could be asked what they have open.
	HoldersKnown bool `json:"holders_known"`

	functions map[BDF]*Function
	groups    map[int]*Group
	mediated  map[string]*Mediated
}

// Function returns the function at an address, nil if there is none.
func (s *Snapshot) Function(b BDF) *Function { return s.functions[b] }

// Group returns the group with a number, nil if there is none.
func (s *Snapshot) Group(id int) *Group { return s.groups[id] }

// MediatedDevice returns the mediated device with a UUID, nil if there is none.
func (s *Snapshot) MediatedDevice(uuid string) *Mediated { return s.mediated[uuid] }

// Scan reads what is there. A function that vanishes meanwhile is left out; one whose
// files can't be read, or hold something else than expected, is there with Problems.
// An error means that PCI as a whole can't be read.
func (h *Host) Scan() (*Snapshot, error) {
	s := newSnapshot()
	if err := h.scanFunctions(s); err != nil {
		return nil, err
	}
	h.scanMediated(s)
	h.scanGroups(s)
	h.conclude(s)
	return s, nil
}

func newSnapshot() *Snapshot {
	return &Snapshot{
		Functions: []*Function{}, Groups: []*Group{}, Mediated: []*Mediated{},
		functions: make(map[BDF]*Function), groups: make(map[int]*Group), mediated: make(map[string]*Mediated),
	}
}

// conclude finds out what follows from what was read, and who holds it.
func (h *Host) conclude(s *Snapshot) {
	s.settleMediated()
	s.IOMMU = h.iommu(s)
	l := h.look()
	for _, g := range s.Groups {
		g.Viability = l.viability(s, g)
	}
	h.scanHolders(s)
}

func (h *Host) scanFunctions(s *Snapshot) error {
	names, err := h.tree.list(pciDevices)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // a kernel or a machine without PCI
	case err != nil:
		return fmt.Errorf("list PCI functions: %w", err)
	}
	for _, name := range names {
		b, ok := parseBDF(name)
		if !ok {
			continue
		}
		h.scanFunction(s, b)
	}
	s.sortFunctions()
	return nil
}

// scanFunction adds the function at b, once. It returns nil if there is none.
func (h *Host) scanFunction(s *Snapshot, b BDF) *Function {
	if f := s.functions[b]; f != nil {
		return f
	}
	f := h.function(b)
	if f != nil {
		s.Functions = append(s.Functions, f)
		s.functions[b] = f
	}
	return f
}

func (s *Snapshot) sortFunctions() {
	slices.SortFunc(s.Functions, func(a, b *Function) int { return a.Address.Compare(b.Address) })
}

// Resolve returns the address of the function that a user means by name: an address,
// with or without domain, or a path of sysfs.
func (h *Host) Resolve(name string) (BDF, error) {
	base := name
	if strings.Contains(name, "/") {
		base = filepath.Base(name)
	}
	b, ok := parseBDF(base)
	if !ok {
		b, ok = parseBDF("0000:" + base)
	}
	if !ok && isUUID(strings.ToLower(base)) {
		return BDF{}, fmt.Errorf("no mediated device %s on this host; see stile mdev list", base)
	}
	if !ok {
		_, err := ParseBDF(name)
		return BDF{}, err
	}
	if !h.tree.exists(functionPath(b)) {
		return BDF{}, fmt.Errorf("no PCI function %v on this host; see stile devices", b)
	}
	return b, nil
}

func functionPath(b BDF) string { return pciDevices + "/" + b.String() }
