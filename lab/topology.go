package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Topology is the part of the nested host that passthrough is tried on: its IOMMU and its PCI
// functions. The zero value has neither, and is what a plain VM needs. docs/lab.md describes
// the file that ParseTopology reads.
type Topology struct {
	// Name stands in lists and messages.
	Name string `json:"name"`
	// IOMMU adds an Intel IOMMU (VT-d) for all functions below the ports.
	IOMMU bool `json:"iommu"`
	// InterruptRemapping lets that IOMMU check interrupts too. Without it VFIO takes no
	// device unless vfio_iommu_type1 is told allow_unsafe_interrupts.
	InterruptRemapping bool `json:"interrupt_remapping"`
	// Ports are the PCI Express root ports in the order of their addresses.
	Ports []Port `json:"ports"`
}

// Port is a PCI Express root port, and what is plugged in.
type Port struct {
	// Bridge puts a PCIe-to-PCI bridge between port and devices: each device then has a slot of
	// its own on a conventional bus, and all of them are one IOMMU group. Otherwise the
	// devices are the functions of one slot, one group as well unless there is just one.
	Bridge bool `json:"bridge,omitempty"`
	// Devices are at most eight behind a port, at most sixteen behind a bridge.
	Devices []Device `json:"devices"`
}

// Device is one PCI function.
type Device struct {
	Kind Kind `json:"kind"`
	// Size is that of an nvme's, virtio-blk's or ivshmem's storage, in MiB; 0: 64.
	Size int64 `json:"size_mib,omitempty"`
	// File backs an nvme or a virtio-blk, and is written to. Empty: a file that is forgotten.
	File string `json:"file,omitempty"`
	// ROM is the file of the expansion ROM of a device that is plugged in late. Empty: none.
	ROM string `json:"rom,omitempty"`
	// VFs is how many virtual functions an nvme can be split into. It has no storage then: QEMU gives a controller in
	// a subsystem, which VFs need, no namespace once the machine runs, and can't save it before.
	VFs int `json:"vfs,omitempty"`
}

// Kind is a sort of device.
type Kind string

// The kinds.
const (
	EDU       Kind = "edu"        // QEMU's teaching device: DMA, MSI and INTx
	NVMe      Kind = "nvme"       // a disk with MSI-X, and VFs
	E1000E    Kind = "e1000e"     // a network card with MSI-X and an expansion ROM's BAR
	VirtioNet Kind = "virtio-net" // behind the IOMMU
	VirtioBlk Kind = "virtio-blk" // behind the IOMMU
	IVShmem   Kind = "ivshmem"    // a 64-bit prefetchable BAR of any size
	TestDev   Kind = "testdev"    // QEMU's pci-testdev: a small memory BAR and an I/O BAR
)

const (
	maxPorts        = 15 // slots 0x10 to 0x1e of the root bus
	maxFunctions    = 8
	maxBridgeSlots  = 16
	maxStorage      = 1 << 20 // MiB
	maxVFs          = 8
	defaultStorage  = 64 // MiB
	firstPortSlot   = 0x10
	maxTopologyFile = 1 << 20
)

// Plain reports whether there is nothing but what a VM without devices needs.
func (t *Topology) Plain() bool { return !t.IOMMU && len(t.Ports) == 0 }

// Validate reports everything that is wrong with t.
func (t *Topology) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if t.InterruptRemapping && !t.IOMMU {
		bad("interrupt remapping needs an IOMMU")
	}
	if len(t.Ports) > maxPorts {
		bad("%d ports: at most %d fit on the root bus", len(t.Ports), maxPorts)
	}
	for i, p := range t.Ports {
		most := maxFunctions
		if p.Bridge {
			most = maxBridgeSlots
		}
		if len(p.Devices) > most {
			bad("port %d: %d devices: at most %d fit", i, len(p.Devices), most)
		}
		for j, d := range p.Devices {
			if err := d.validate(); err != nil {
				bad("port %d, device %d: %w", i, j, err)
			}
			if d.VFs > 0 && (p.Bridge || len(p.Devices) > 1) {
				bad("port %d, device %d: a function with VFs needs a port of its own", i, j)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("topology %q: %w", t.Name, err)
	}
	return nil
}

func (d *Device) validate() error {
	spec, ok := kinds[d.Kind]
	switch {
	case !ok:
		return fmt.Errorf("kind %q: must be one of %s", d.Kind, strings.Join(Kinds(), ", "))
	case d.Size < 0 || d.Size > maxStorage:
		return fmt.Errorf("%s of %d MiB: 1 to %d are possible", d.Kind, d.Size, maxStorage)
	case d.Size > 0 && !spec.storage:
		return fmt.Errorf("%s has no storage, and no size_mib", d.Kind)
	case d.File != "" && !spec.disk:
		return fmt.Errorf("%s is no disk, and has no file", d.Kind)
	case d.ROM != "" && !spec.late:
		return fmt.Errorf("%s has no rom; nvme and ivshmem can have one", d.Kind)
	case d.VFs < 0 || d.VFs > maxVFs:
		return fmt.Errorf("%s with %d VFs: at most %d are possible", d.Kind, d.VFs, maxVFs)
	case d.VFs > 0 && d.Kind != NVMe:
		return fmt.Errorf("%s has no VFs; nvme has", d.Kind)
	case d.VFs > 0 && (d.File != "" || d.Size > 0):
		return fmt.Errorf("%s with VFs has no storage, and neither file nor size_mib", d.Kind)
	case d.Kind == IVShmem && d.Size&(d.Size-1) != 0:
		return fmt.Errorf("%s of %d MiB: a BAR's size is a power of two", d.Kind, d.Size)
	}
	return nil
}

// mib returns the size of d's storage in MiB.
func (d *Device) mib() int64 {
	if d.Size == 0 {
		return defaultStorage
	}
	return d.Size
}

// Kinds returns the kinds' names.
func Kinds() []string {
	var names []string
	for k := range kinds {
		names = append(names, string(k))
	}
	slices.Sort(names)
	return names
}

// Function says where a Device is in the nested host.
type Function struct {
	// BDF is its address, such as 0000:01:00.0.
	BDF string `json:"bdf"`
	// Device is what it is.
	Device Device `json:"device"`
	// Unit is the number of its port. The functions of a port share an IOMMU group, apart from
	// all others.
	Unit int `json:"unit"`
}

// Functions returns the devices' places, which follow from the order in which firmware numbers buses:
// a port's bus comes after all of the port before.
func (t *Topology) Functions() []Function {
	var functions []Function
	bus := 0
	for i, p := range t.Ports {
		bus++
		if p.Bridge {
			bus++ // the bridge's own is the port's, its devices are one further
		}
		for j, d := range p.Devices {
			slot, function := 0, j
			if p.Bridge {
				slot, function = j+1, 0
			}
			functions = append(functions, Function{fmt.Sprintf("0000:%02x:%02x.%x", bus, slot, function), d, i})
		}
	}
	return functions
}

// ParseTopology reads a topology from JSON, and validates it.
func ParseTopology(data []byte) (*Topology, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	t := &Topology{}
	if err := decoder.Decode(t); err != nil {
		return nil, fmt.Errorf("topology: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("topology: more than one JSON value")
	}
	return t, t.Validate()
}

// FindTopology returns the shipped topology of that name, or the one in the file of that path. The
// empty name is the plain one.
func FindTopology(name string) (*Topology, error) {
	for _, t := range Topologies() {
		if t.Name == name {
			return &t, nil
		}
	}
	if name == "" {
		return &Topology{Name: plainName}, nil
	}
	data, err := readBounded(name, maxTopologyFile)
	if errors.Is(err, os.ErrNotExist) && !strings.Contains(name, "/") {
		return nil, fmt.Errorf("topology %q: neither a file nor one of %s", name, strings.Join(topologyNames(), ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("topology: %w", err)
	}
	t, err := ParseTopology(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

func topologyNames() []string {
	var names []string
	for _, t := range Topologies() {
		names = append(names, t.Name)
	}
	return names
}
