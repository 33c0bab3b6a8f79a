package pci_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stile-vmm/stile/devices/bus"
	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/devices/pci/pcitest"
	"github.com/stile-vmm/stile/internal/layout"
)

// viewMachine is a root bus whose config space the guest reads from memory.
type viewMachine struct {
	*machine
	config []byte
}

func newViewMachine(t *testing.T) *viewMachine {
	m := &machine{mapper: pcitest.NewMapper(), irq: pcitest.NewIRQ(0), t: t}
	v := &viewMachine{m, make([]byte, layout.ECAMSize)}
	var err error
	m.root, err = pci.NewRoot(pci.Options{
		Memory: &m.memory, Ports: &m.ports, Mapper: m.mapper, IRQ: m.irq, MMIO64: mmio64, NoPorts: true,
		Config: v.config, ConfigAddr: layout.PageSize,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.root.Close)
	return v
}

// mapped reports whether the guest reads a slot's function 0 from memory.
func (v *viewMachine) mapped(slot int) bool {
	gpa, h, ok := v.mapper.HostAt(uint64(layout.ECAM + slot<<15))
	if ok && (!h.ReadOnly || h.Addr != uintptr(layout.PageSize+gpa-layout.ECAM)) {
		v.t.Errorf("config space at %#x is mapped as %+v", gpa, h)
	}
	return ok
}

// check compares what the guest reads from memory with what a trapped read gives.
func (v *viewMachine) check(f *pci.Function, slot int) {
	v.t.Helper()
	want := make([]byte, pci.ConfigSize)
	f.ReadConfig(0, want)
	if got := v.config[slot<<15 : slot<<15+pci.ConfigSize]; !bytes.Equal(got, want) {
		v.t.Fatalf("slot %d: memory differs from the trapped read", slot)
	}
}

func TestViewFollows(t *testing.T) {
	v := newViewMachine(t)
	f := pci.NewFunction(pci.Header{Name: "test", Vendor: 0x1234, Device: 1, Pin: 1})
	if err := f.SetBAR(0, pci.BAR{Size: 0x4000, Is64: true, Traps: []pci.Trap{{Size: 0x4000, Handler: discard{}}}}); err != nil {
		t.Fatal(err)
	}
	slot := v.add(f)
	v.check(f, slot)
	if !v.mapped(slot) || !v.mapped(31) {
		t.Error("config space is not mapped for the guest")
	}
	if v.config[31<<15] != 0xff {
		t.Error("an empty slot does not read as ones")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var p [4]byte
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
		f.WriteConfig(rng.IntN(0x110), p[:1+rng.IntN(4)])
		if err := f.INTx().Set(rng.IntN(2) == 0); err != nil {
			t.Fatal(err)
		}
		v.check(f, slot)
	}
	f.Reset()
	v.check(f, slot)
	v.root.Remove(f)
	if !bytes.Equal(v.config[slot<<15:slot<<15+4], []byte{0xff, 0xff, 0xff, 0xff}) {
		t.Error("a removed function is still there in memory")
	}
}

// TestViewComputed has one function whose reads are computed from the start, and one
// where the guest's write makes them so.
func TestViewComputed(t *testing.T) {
	v := newViewMachine(t)
	read := func(int, []byte) {}
	always := pci.NewFunction(pci.Header{Name: "always", Vendor: 1})
	always.AddHook(pci.Hook{Off: 0x40, Size: 4, Read: read})
	later := pci.NewFunction(pci.Header{Name: "later", Vendor: 2})
	later.AddHook(pci.Hook{Off: 0x40, Size: 4, Read: read, ReadAfterWrite: true})
	for slot, f := range []*pci.Function{always, later} {
		if _, err := v.root.Add(slot, 0, f); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.root.Assign(); err != nil {
		t.Fatal(err)
	}
	if v.mapped(0) || !v.mapped(1) || !v.mapped(2) {
		t.Errorf("mapped: %v %v %v, want false true true", v.mapped(0), v.mapped(1), v.mapped(2))
	}
	later.WriteConfig(0x3c, []byte{5})
	if !v.mapped(1) {
		t.Error("a write elsewhere made reads trap")
	}
	later.WriteConfig(0x43, []byte{5})
	if v.mapped(0) || v.mapped(1) || !v.mapped(2) {
		t.Errorf("after the write, mapped: %v %v %v, want false false true", v.mapped(0), v.mapped(1), v.mapped(2))
	}
}

type discard struct{}

func (discard) Read(uint64, []byte)  {}
func (discard) Write(uint64, []byte) {}

var _ bus.Handler = discard{}
