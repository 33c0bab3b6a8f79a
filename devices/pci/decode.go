package pci

import (
	"fmt"
	"math"
	"slices"

	"github.com/stile-vmm/stile/devices/bus"
)

// unmapped is the address of a BAR that is not decoded.
const unmapped = math.MaxUint64

// barState is a BAR with where it is. The function's lock guards it.
type barState struct {
	BAR
	reg      int
	rom      bool    // the register has an enable bit
	assigned uint64  // where Assign put it; unassigned is 0
	sizing   [2]bool // the guest wrote all ones to the register and reads the size back
	mapped   bool
	at       uint64 // while mapped: what the parts are mapped at
	regions  []*bus.Registration
	hosts    []Host
	bells    []Doorbell
}

// noteSizing keeps track of registers that hold a sizing pattern. Only a full 32-bit
// write of ones is one; any other write ends it.
func (f *Function) noteSizing(off int, p []byte) {
	for _, b := range f.bars {
		if b == nil {
			continue
		}
		for half := range 2 {
			reg := b.reg + 4*half
			if half == 1 && !b.Is64 || off >= reg+4 || reg >= off+len(p) {
				continue
			}
			at := reg - off
			b.sizing[half] = at >= 0 && at+4 <= len(p) &&
				p[at]&p[at+1]&p[at+2]&p[at+3] == 0xff
		}
	}
}

// address returns what the BAR's registers say.
func (f *Function) address(b *barState) uint64 {
	if b.Space == IO {
		return uint64(f.cfg.get32(b.reg) &^ 3)
	}
	if b.rom {
		return uint64(f.cfg.get32(b.reg) &^ (LeastROM - 1))
	}
	a := uint64(f.cfg.get32(b.reg) &^ 15)
	if b.Is64 {
		a |= uint64(f.cfg.get32(b.reg+4)) << 32
	}
	return a
}

func (f *Function) putAddress(b *barState, addr uint64) {
	f.cfg.put32(b.reg, uint32(addr)|b.flags())
	if b.Is64 {
		f.cfg.put32(b.reg+4, uint32(addr>>32))
	}
	b.sizing = [2]bool{}
}

// wanted returns where the BAR should be decoded now, or unmapped.
func (f *Function) wanted(b *barState) uint64 {
	enable := uint16(CommandMemory)
	if b.Space == IO {
		enable = CommandIO
	}
	if f.root == nil || f.cfg.get16(RegCommand)&enable == 0 || b.sizing[0] || b.sizing[1] {
		return unmapped
	}
	if b.rom && f.cfg.data[b.reg]&romEnable == 0 {
		return unmapped
	}
	for _, h := range f.hooks {
		if h.Powered != nil && !h.Powered() {
			return unmapped
		}
	}
	addr := f.address(b)
	if !f.root.inWindow(b.Space, addr, b.Size) {
		return unmapped
	}
	return addr
}

// withdraw unmaps BARs that are to go, or all of them.
func (f *Function) withdraw(all bool) {
	for _, b := range f.bars {
		if b != nil && b.mapped && (all || f.wanted(b) != b.at) {
			f.unmap(b)
		}
	}
}

// settle maps and unmaps BARs until they are as COMMAND and the registers say: first
// everything that goes, then everything that comes.
func (f *Function) settle() {
	f.withdraw(false)
	for _, b := range f.bars {
		if b == nil || b.mapped {
			continue
		}
		if at := f.wanted(b); at != unmapped {
			f.mapAt(b, at)
		}
	}
}

// mapAt makes the BAR's parts reachable at addr. A trap or memory slot that is refused
// undoes the whole: the BAR then reads as ones until its registers change.
func (f *Function) mapAt(b *barState, addr uint64) {
	b.mapped, b.at = true, addr
	space := f.root.space(b.Space)
	f.fail(f.root.o.Mapper.Decode(b.Space, addr, b.Size, b.Doorbells))
	for _, t := range b.Traps {
		r, err := space.Add(f.name, addr+t.Off, t.Size, t.Handler)
		if err != nil {
			f.fail(notDecoded(b, addr, err))
			f.unmap(b)
			return
		}
		b.regions = append(b.regions, r)
	}
	for _, h := range b.Hosts {
		if err := f.root.o.Mapper.MapHost(addr+h.Off, h); err != nil {
			f.fail(notDecoded(b, addr, fmt.Errorf("map %#x bytes at %#x: %w", h.Size, addr+h.Off, err)))
			f.unmap(b)
			return
		}
		b.hosts = append(b.hosts, h)
	}
	for _, d := range b.Doorbells {
		if err := f.root.o.Mapper.AddDoorbell(b.Space, addr+d.Off, d); err != nil {
			f.fail(fmt.Errorf("doorbell at %#x, which costs an exit each time that the guest rings it: %w", addr+d.Off, err))
			continue // the trap below serves it
		}
		b.bells = append(b.bells, d)
	}
}

// notDecoded says what it means to the guest that a BAR could not be mapped.
func notDecoded(b *barState, addr uint64, err error) error {
	name := fmt.Sprintf("BAR %d", (b.reg-RegBAR0)/4)
	if b.rom {
		name = "the expansion ROM"
	}
	return fmt.Errorf("%s at %#x is not decoded, and the guest reads ones from it: %w", name, addr, err)
}

// prepare gives the Mapper the doorbells of BARs that are assigned and not decoded yet.
func (f *Function) prepare() {
	m := f.root.o.Mapper
	for _, b := range f.bars {
		if b == nil || b.mapped || b.assigned == 0 {
			continue
		}
		for _, d := range b.Doorbells {
			if m.AddDoorbell(b.Space, b.assigned+d.Off, d) == nil { // else mapAt tells
				f.fail(m.RemoveDoorbell(b.Space, b.assigned+d.Off, d))
			}
		}
	}
}

// unmap takes away what mapAt did. Handlers may still be in calls that began before.
func (f *Function) unmap(b *barState) {
	m := f.root.o.Mapper
	for _, d := range b.bells {
		f.fail(m.RemoveDoorbell(b.Space, b.at+d.Off, d))
	}
	for _, h := range b.hosts {
		f.fail(m.UnmapHost(b.at+h.Off, h))
	}
	f.parting = slices.DeleteFunc(f.parting, func(r *bus.Registration) bool { return !r.Busy() })
	for _, r := range b.regions {
		r.Detach()
		if r.Busy() {
			f.parting = append(f.parting, r)
		}
	}
	b.mapped, b.regions, b.hosts, b.bells = false, b.regions[:0], b.hosts[:0], b.bells[:0]
}
