package kvm

import (
	"errors"
	"syscall"
	"testing"

	"github.com/stile-vmm/stile/internal/sys"
)

const extraAddr = 0x20000000

func (g *guest) memory(size int) *sys.Mapping {
	g.t.Helper()
	m, err := sys.MapAnonymous(size)
	check(g.t, err)
	g.t.Cleanup(func() { check(g.t, m.Close()) })
	return m
}

func TestSlotsUnderRunningVCPU(t *testing.T) {
	g := newGuest(t, false)
	c := g.unbound(0)
	g.longMode(c, code(
		0xbb, uint32(extraAddr), // mov ebx, extraAddr
		0x66, 0xba, uint16(testPort), // mov dx, testPort
		0x8b, 0x03, // mov eax, [rbx]
		0xef,        // out dx, eax
		0xeb, 0xfb)) // jmp to mov eax
	extra := g.memory(8192)
	copy(extra.Bytes(), []byte{0x78, 0x56, 0x34, 0x12})
	copy(extra.Bytes()[4096:], []byte{0x44, 0x33, 0x22, 0x11})
	const absent, first, second = 0xffffffff, 0x12345678, 0x11223344
	r := g.start(c, func(m MMIO) {
		for i := range m.Data {
			m.Data[i] = 0xff
		}
	})
	until := func(want uint32) {
		t.Helper()
		for range cap(r.outs) + 10 { // old values may be queued
			if r.out() == want {
				return
			}
		}
		t.Fatalf("the guest does not read %#x", want)
	}
	until(absent)
	for range 3 {
		slot := MemorySlot{Slot: 1, GPA: extraAddr, Size: 4096, Host: extra.Addr()}
		check(t, g.vm.SetMemorySlot(slot))
		until(first)
		check(t, g.vm.RemoveMemorySlot(1))
		until(absent)
		slot.Host += 4096
		check(t, g.vm.SetMemorySlot(slot))
		until(second)
		check(t, g.vm.RemoveMemorySlot(1))
		until(absent)
	}
}

func TestReadOnlySlot(t *testing.T) {
	g := newGuest(t, false)
	c := g.vcpu(0)
	rom := g.memory(4096)
	rom.Bytes()[0] = 0x55
	check(t, g.vm.SetMemorySlot(MemorySlot{Slot: 1, GPA: extraAddr, Size: 4096, Host: rom.Addr(), Flags: ReadOnly}))
	g.longMode(c, code(
		0xbb, uint32(extraAddr), // mov ebx, extraAddr
		0x8a, 0x03, // mov al, [rbx]
		0xfe, 0xc0, // inc al
		0x88, 0x03, // mov [rbx], al
		0xf4))
	m := g.next(c, ExitMMIO).MMIO()
	if !m.Write || m.Addr != extraAddr || len(m.Data) != 1 || m.Data[0] != 0x56 {
		t.Errorf("got %+v, want a write of 0x56", m)
	}
	g.next(c, ExitHLT)
	if rom.Bytes()[0] != 0x55 {
		t.Error("the guest wrote to read-only memory")
	}
}

func TestDirtyLog(t *testing.T) {
	g := newGuest(t, false)
	c := g.vcpu(0)
	extra := g.memory(16 * 4096)
	check(t, g.vm.SetMemorySlot(MemorySlot{Slot: 1, GPA: extraAddr, Size: 16 * 4096, Host: extra.Addr(), Flags: LogDirty}))
	g.longMode(c, code(
		0xbb, uint32(extraAddr+3*4096), // mov ebx, page 3
		0x88, 0x03, // mov [rbx], al
		0xf4))
	g.next(c, ExitHLT)
	var bitmap [1]uint64
	check(t, g.vm.DirtyLog(1, bitmap[:]))
	if bitmap[0]&(1<<3) == 0 {
		t.Errorf("log %#x lacks page 3", bitmap[0])
	}
	check(t, g.vm.DirtyLog(1, bitmap[:]))
	if bitmap[0]&(1<<3) != 0 {
		t.Errorf("log %#x has page 3 again", bitmap[0])
	}
	if err := g.vm.DirtyLog(1, nil); err == nil {
		t.Error("empty bitmap: no error")
	}
}

func TestSlotErrors(t *testing.T) {
	g := newGuest(t, false)
	extra := g.memory(4096)
	tests := map[string]struct {
		slot MemorySlot
		want syscall.Errno
	}{
		"overlap":      {MemorySlot{Slot: 1, GPA: 0x2000, Size: 4096, Host: extra.Addr()}, syscall.EEXIST},
		"other size":   {MemorySlot{Slot: ramSlot, Size: 4096, Host: extra.Addr()}, syscall.EINVAL},
		"unaligned":    {MemorySlot{Slot: 1, GPA: extraAddr + 1, Size: 4096, Host: extra.Addr()}, syscall.EINVAL},
		"half a page":  {MemorySlot{Slot: 1, GPA: extraAddr, Size: 2048, Host: extra.Addr()}, syscall.EINVAL},
		"slot too far": {MemorySlot{Slot: 1 << 15, GPA: extraAddr, Size: 4096, Host: extra.Addr()}, syscall.EINVAL},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if err := g.vm.SetMemorySlot(test.slot); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}
