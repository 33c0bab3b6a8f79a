package vmm

import (
	"encoding/binary"
	"math/bits"

	"github.com/stile-vmm/stile/devices/bus"
	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/internal/layout"
)

// BAR is a base address register of a device of the host.
type BAR struct {
	Index   int    // 0 to 5, or ROMIndex
	Size    uint64 // bytes
	IO      bool
	Wide    bool   // 64-bit
	Address uint64 // where the guest finds it
}

// DeviceBARs are those of one device.
type DeviceBARs struct {
	Name string // for errors
	BARs []BAR
}

// ROMIndex is the index of the expansion ROM.
const ROMIndex = pci.MaxBARs

// PlaceBARs fills in the addresses at which New puts the devices' BARs, with RAM at ram: they
// get theirs before the VM's own devices. The error names those that find no room.
func PlaceBARs(ram []layout.Range, devices []DeviceBARs) error {
	var total, largest uint64
	for _, d := range devices {
		for _, b := range d.BARs {
			if b.Wide {
				total, largest = total+roundUp(b.Size), max(largest, roundUp(b.Size))
			}
		}
	}
	root, err := pci.NewRoot(pci.Options{Memory: new(bus.Bus), Ports: new(bus.Bus), MMIO64: mmio64(ram, total, largest), NoPorts: true})
	if err != nil {
		return err
	}
	var functions []*pci.Function
	for _, d := range devices {
		f, err := d.standIn()
		if err != nil {
			return err
		}
		if _, err := root.Add(-1, 0, f); err != nil {
			return err
		}
		functions = append(functions, f)
	}
	if err := root.Assign(); err != nil {
		return err
	}
	for i, d := range devices {
		for j := range d.BARs {
			d.BARs[j].readAddress(functions[i])
		}
	}
	return nil
}

// mmio64 is the 64-bit PCI window for devices whose 64-bit BARs have total bytes.
func mmio64(ram []layout.Range, total, largest uint64) layout.Range {
	return layout.Range{Start: layout.MMIO64Behind(ram, largest), Size: mmio64Size + total}
}

func roundUp(size uint64) uint64 { return 1 << bits.Len64(size-1) }

// standIn returns a function with BARs that have nothing behind them.
func (d DeviceBARs) standIn() (*pci.Function, error) {
	f := pci.NewFunction(pci.Header{Name: d.Name})
	for _, b := range d.BARs {
		var err error
		if b.Index == ROMIndex {
			err = f.SetROM(pci.BAR{Size: max(pci.LeastROM, roundUp(b.Size))})
		} else {
			space := pci.Memory
			if b.IO {
				space = pci.IO
			}
			err = f.SetBAR(b.Index, pci.BAR{Size: roundUp(b.Size), Space: space, Is64: b.Wide})
		}
		if err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (b *BAR) readAddress(f *pci.Function) {
	reg := pci.RegBAR0 + 4*b.Index
	if b.Index == ROMIndex {
		reg = pci.RegROM
	}
	var raw [8]byte
	f.ReadConfig(reg, raw[:])
	const flags = 15 // low bits of a register; addresses are multiples of 16, of ports of 4
	low := binary.LittleEndian.Uint32(raw[:])
	if b.IO {
		b.Address = uint64(low &^ 3)
		return
	}
	b.Address = uint64(low &^ flags)
	if b.Wide {
		b.Address |= uint64(binary.LittleEndian.Uint32(raw[4:])) << 32
	}
}
