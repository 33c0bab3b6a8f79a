package passthrough

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/vfio"
)

const (
	msixCap = 0xd0
	msixOn  = 0x8000
	maskAll = 0x4000
)

// unmask programs entry i of the MSI-X table of BAR 2.
func (m *machine) unmask(i int) {
	at := m.address(2) + 0x2000 + 16*uint64(i)
	m.memory.Write(at, []byte{0, 0, 0xe0, 0xfe, 0, 0, 0, 0})
	m.memory.Write(at+8, []byte{byte(0x40 + i), 0, 0, 0})
	m.memory.Write(at+12, []byte{0, 0, 0, 0})
}

func (m *machine) mask(i int) {
	m.memory.Write(m.address(2)+0x2000+16*uint64(i)+12, []byte{1, 0, 0, 0})
}

func (m *machine) want(what string, calls ...string) {
	m.t.Helper()
	got := m.hw.since()
	if len(calls) == 0 {
		calls = nil
	}
	if diff := cmp.Diff(calls, got); diff != "" {
		m.t.Errorf("%s: %s", what, diff)
	}
}

func TestStartHasINTx(t *testing.T) {
	h := withMSIX(endpoint())
	m := build(t, h)
	h.since()
	check(t, m.f.Start(1))
	m.want("start", "EnableINTx 7", "Attach ", "SetUnmask 8", "UnmaskINTx ")
	h2 := withMSIX(endpoint())
	h2.irqs[vfio.INTx] = vfio.IRQInfo{}
	m = build(t, h2)
	h2.since()
	check(t, m.f.Start(1))
	m.want("start without a pin")
	if m.read(regPin, 1) != 0 {
		t.Error("the guest sees a pin")
	}
}

// TestMSIXAsLinuxDoes: enabled with all masked, then vectors one by one.
func TestMSIXAsLinuxDoes(t *testing.T) {
	m := plug(t, withMSIX(endpoint()))
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	m.hw.since()
	m.write(msixCap+2, 2, msixOn|maskAll)
	m.want("enable", "EnableMSI MSI-X []", "Detach ")
	m.write(msixCap+2, 2, msixOn)
	m.want("function mask")
	m.unmask(0)
	m.unmask(3)
	m.want("unmask", "SetVector 0 100", "SetVector 3 101")
	m.mask(0)
	m.unmask(0)
	m.want("mask and unmask, without the device")
	if s := m.f.Stats().Interrupts; s.Mode != "MSI-X" || s.Vectors["MSI-X"] != 2 {
		t.Errorf("stats %+v", s)
	}
	m.write(msixCap+2, 2, 0)
	m.want("disable", "DisableIRQs ", "EnableINTx 7", "Attach ", "SetUnmask 8", "UnmaskINTx ")
	m.write(msixCap+2, 2, msixOn)
	m.want("enable again", "EnableMSI MSI-X [100 -1 -1 101]", "Detach ")
	check(t, m.f.Close())
	m.want("close", "DisableIRQs ", "CloseWire ", "write config 0x4 0000")
	if m.irqs.Open() != 0 {
		t.Errorf("%d vectors are left", m.irqs.Open())
	}
	check(t, m.f.Close())
}

// TestVectorsAreLost with a kernel that switches all off to add one: the others are signalled.
func TestVectorsAreLost(t *testing.T) {
	h := withMSIX(endpoint())
	h.irqs[vfio.MSIX].NoResize = true
	m := plug(t, h)
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	m.write(msixCap+2, 2, msixOn)
	m.unmask(0)
	m.unmask(1)
	if n := m.irqs.Count(message(0x40)); n != 1 {
		t.Errorf("vector 0 was signalled %d times, want once", n)
	}
	if n := m.irqs.Count(message(0x41)); n != 0 {
		t.Errorf("vector 1 was signalled %d times", n)
	}
}

func TestTooFewVectors(t *testing.T) {
	h := withMSIX(endpoint())
	m := plug(t, h)
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	m.write(msixCap+2, 2, msixOn)
	for i := range 4 {
		m.unmask(i)
	}
	m.write(msixCap+2, 2, 0)
	h.fail["EnableMSI"] = &vfio.VectorsError{Kind: vfio.MSIX, Want: 4, Available: 3}
	h.since()
	m.write(msixCap+2, 2, msixOn)
	m.want("enable", "EnableMSI MSI-X [100 101 102 103]", "EnableMSI MSI-X [100 101 102]", "Detach ")
	if len(m.warned) != 1 {
		t.Errorf("warnings %v", m.warned)
	}
}

// TestBackToINTx: a guest that gets no MSI-X falls back to the wire, which it has again.
func TestBackToINTx(t *testing.T) {
	h := withMSIX(endpoint())
	m := plug(t, h)
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	h.fail["EnableMSI"] = errors.New("refused")
	m.write(msixCap+2, 2, msixOn)
	h.since()
	m.write(msixCap+2, 2, 0)
	m.want("disable", "DisableIRQs ", "EnableINTx 7", "Attach ", "SetUnmask 8", "UnmaskINTx ")
}

// TestErrorsAreTold, and leave a device without interrupts, not a broken VM.
func TestErrorsAreTold(t *testing.T) {
	for _, call := range []string{"EnableMSI", "SetVector", "EnableINTx", "Attach", "SetUnmask", "UnmaskINTx"} {
		h := withMSIX(endpoint())
		h.fail[call] = errors.New("refused")
		m := plug(t, h)
		m.write(pci.RegCommand, 2, pci.CommandMemory)
		m.write(msixCap+2, 2, msixOn)
		m.unmask(0)
		m.write(msixCap+2, 2, 0)
		if len(m.warned) == 0 {
			t.Errorf("%s: nothing was said", call)
		}
		check(t, m.f.Close())
	}
}

// TestRefusedVectorIsForgotten: its eventfd is closed, and its number may soon be another file's.
func TestRefusedVectorIsForgotten(t *testing.T) {
	h := withMSIX(endpoint())
	m := plug(t, h)
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	m.write(msixCap+2, 2, msixOn)
	m.unmask(0)
	h.fail["SetVector"] = errors.New("refused")
	m.unmask(1)
	delete(h.fail, "SetVector")
	m.write(msixCap+2, 2, 0)
	h.since()
	m.write(msixCap+2, 2, msixOn|maskAll)
	m.want("enable", "EnableMSI MSI-X [100 -1]", "Detach ")
}

// TestWarningsEnd: a guest cannot fill the host's log.
func TestWarningsEnd(t *testing.T) {
	h := withMSIX(endpoint())
	h.fail["EnableMSI"] = errors.New("refused")
	m := plug(t, h)
	for range 100 {
		m.write(msixCap+2, 2, msixOn)
		m.write(msixCap+2, 2, 0)
	}
	if len(m.warned) != maxWarnings {
		t.Errorf("%d warnings", len(m.warned))
	}
}

// withMSI gives the device MSI of 4 vectors, 32-bit and without masks.
func withMSI(h *fakeHardware) *fakeHardware {
	h.cap(0xc0, capVPD, 0xe0, 0, 0, 0, 0, 0, 0)
	h.cap(0xe0, capMSI, 0, 2<<1, 0)
	h.irqs[vfio.MSI] = vfio.IRQInfo{Count: 4}
	return h
}

func TestMSI(t *testing.T) {
	m := plug(t, withMSI(endpoint()))
	if got := m.read(0xe2, 2); got != 2<<1 {
		t.Errorf("message control %#x", got)
	}
	m.write(0xe4, 4, 0xfee01000)
	m.write(0xe8, 2, 0x50)
	m.write(0xe2, 2, 1|1<<4) // two vectors
	m.want("enable", "EnableMSI MSI [100 101]", "Detach ")
	check(t, m.f.interrupts.vectors[vfio.MSI][1].Trigger())
	if m.irqs.Count(message2(0xfee01000, 0x51)) != 1 {
		t.Error("vector 1 did not arrive")
	}
	m.write(0xe2, 2, 0)
	m.want("disable", "DisableIRQs ", "EnableINTx 7", "Attach ", "SetUnmask 8", "UnmaskINTx ")
	m.hw.fail["EnableMSI"] = &vfio.VectorsError{Kind: vfio.MSI, Want: 2, Available: 1}
	m.write(0xe2, 2, 1|1<<4)
	m.want("too few", "EnableMSI MSI [100 101]", "EnableMSI MSI [100]", "Detach ")
}

// TestMSICount: the host has exactly as many vectors as the guest has enabled, also when these get fewer, or change under way.
func TestMSICount(t *testing.T) {
	m := plug(t, withMSI(endpoint()))
	m.write(0xe4, 4, 0xfee01000)
	m.write(0xe8, 2, 0x50)
	m.write(0xe2, 2, 1|2<<4)
	m.want("four", "EnableMSI MSI [100 101 102 103]", "Detach ")
	m.write(0xe2, 2, 0)
	m.hw.since()
	m.write(0xe2, 2, 1)
	m.want("one", "EnableMSI MSI [100]", "Detach ")
	m.write(0xe2, 2, 1|1<<4)
	m.want("two, without switching off", "EnableMSI MSI [100 101]")
	m.write(0xe2, 2, 1|2<<4)
	m.want("four again", "EnableMSI MSI [100 101 102 103]")
}

// TestMSIMasked: a vector that is masked from the beginning has its place on the host, and what comes for it is pending.
func TestMSIMasked(t *testing.T) {
	h := endpoint()
	h.cap(0xc0, capMSI, 0, 2<<1, 1) // with masks
	h.irqs[vfio.MSI] = vfio.IRQInfo{Count: 4}
	m := plug(t, h)
	const mask, pending = 0xcc, 0xd0
	m.write(0xc4, 4, 0xfee01000)
	m.write(0xc8, 2, 0x50)
	m.write(mask, 4, 2)
	m.write(0xc2, 2, 1|1<<4)
	m.want("one of two masked", "EnableMSI MSI [100 101]", "Detach ")
	check(t, m.f.interrupts.vectors[vfio.MSI][1].Trigger())
	if got := m.read(pending, 4); got != 2 || m.irqs.Count(message2(0xfee01000, 0x51)) != 0 {
		t.Errorf("pending %#x", got)
	}
	m.write(mask, 4, 0)
	if got := m.read(pending, 4); got != 0 || m.irqs.Count(message2(0xfee01000, 0x51)) != 1 {
		t.Errorf("after unmasking, pending %#x", got)
	}
}

// TestBothAtOnce: a guest that enables MSI and MSI-X gets the last, and INTx after that.
func TestBothAtOnce(t *testing.T) {
	h := endpoint()
	h.bar(2, bar64, 0x8000)
	h.cap(0xc0, capMSIX, 0xe0, 4, 0, 0x02, 0x20, 0, 0, 0x02, 0x30, 0, 0)
	h.cap(0xe0, capMSI, 0, 0, 0)
	h.irqs[vfio.MSI], h.irqs[vfio.MSIX] = vfio.IRQInfo{Count: 1}, vfio.IRQInfo{Count: 5}
	m := plug(t, h)
	m.write(0xc2, 2, msixOn)
	m.write(0xe2, 2, 1)
	m.want("both", "EnableMSI MSI-X []", "Detach ", "EnableMSI MSI [100]")
	m.write(0xc2, 2, 0)
	m.want("MSI-X off")
	m.write(0xe2, 2, 0)
	m.want("MSI off", "DisableIRQs ", "EnableINTx 7", "Attach ", "SetUnmask 8", "UnmaskINTx ")
}

// TestEvents: the device's notifications reach their user until Close.
func TestEvents(t *testing.T) {
	h := endpoint()
	h.irqs[vfio.Err], h.irqs[vfio.Req] = vfio.IRQInfo{Count: 1}, vfio.IRQInfo{Count: 1}
	m := plug(t, h)
	for _, w := range m.f.watchers {
		check(t, w.event.Signal())
	}
	got := map[Event]bool{<-m.events: true, <-m.events: true}
	if !got[DeviceError] || !got[DeviceWanted] {
		t.Errorf("got %v", got)
	}
	check(t, m.f.Close())
}

// TestReset: the machine's reset puts the device back, and interrupts to INTx.
func TestReset(t *testing.T) {
	m := plug(t, withMSIX(endpoint()))
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	m.write(msixCap+2, 2, msixOn)
	m.unmask(0)
	m.hw.since()
	m.root.Reset()
	if m.mapped() != 0 || m.read(pci.RegCommand, 2) != 0 {
		t.Errorf("%d parts mapped, COMMAND %#x", m.mapped(), m.read(pci.RegCommand, 2))
	}
	if s := m.f.Stats().Interrupts; s.Mode != "INTx" {
		t.Errorf("stats %+v", s)
	}
}

// TestReboot: while the machine is reset the device has no interrupt of any kind, then INTx; vectors are at
// hand for the next boot's driver.
func TestReboot(t *testing.T) {
	m := plug(t, withMSIX(endpoint()))
	for boot := range 2 {
		m.write(pci.RegCommand, 2, pci.CommandMemory|pci.CommandMaster)
		m.write(msixCap+2, 2, msixOn)
		m.unmask(0)
		m.hw.since()
		check(t, m.f.Silence())
		m.root.Reset()
		m.want("silent", "DisableIRQs ", "Detach ", "write config 0x4 0000", "read config 0x44 2", "write config 0x4 0000")
		if m.mapped() != 0 {
			t.Errorf("%d parts mapped", m.mapped())
		}
		check(t, m.f.Revive())
		m.want("alive", "read config 0x44 2", "write config 0x4 0000", "EnableINTx 7", "Attach ", "SetUnmask 8", "UnmaskINTx ")
		if s := m.f.Stats().Interrupts; s.Mode != "INTx" || s.Entered["MSI-X"] != uint64(boot+1) || s.Vectors["MSI-X"] != 1 {
			t.Errorf("boot %d: %+v", boot, s)
		}
	}
}

// TestHostileGuest has several vCPUs write everything everywhere at once. Nothing may panic, hang or
// be left.
func TestHostileGuest(t *testing.T) {
	h := withMSIX(endpoint())
	h.bar(0, 0, 0x1000, vfio.Area{Size: 0x1000})
	h.bar(4, barIO, 0x100)
	m := plug(t, h)
	m.f.o.Warn = func(error) {}
	var vcpus sync.WaitGroup
	for seed := range uint64(4) {
		vcpus.Go(func() {
			r := rand.New(rand.NewPCG(seed, 1))
			for range 2000 {
				p := binary.LittleEndian.AppendUint64(nil, r.Uint64())[:1<<r.IntN(4)]
				switch r.IntN(6) {
				case 0:
					m.memory.Write(ecam+r.Uint64N(0x200), p)
				case 1:
					m.memory.Read(ecam+r.Uint64N(pci.ConfigSize), p)
				case 2:
					m.write(pci.RegCommand, 2, uint32(r.Uint64N(8)))
				case 3:
					m.memory.Write(m.address(2)+0x2000+r.Uint64N(0x1010), p)
				case 4:
					m.write(msixCap+2, 2, uint32(r.Uint64()))
				default:
					m.ports.Write(m.address(4)+r.Uint64N(0x100), p)
				}
			}
		})
	}
	vcpus.Wait()
	check(t, m.f.Close())
	m.root.Close()
	if m.mapped() != 0 || m.irqs.Open() != 0 {
		t.Errorf("%d parts mapped and %d vectors open at the end", m.mapped(), m.irqs.Open())
	}
}

// TestCloseInReset: a machine's reset that fails half way leaves nothing open.
func TestCloseInReset(t *testing.T) {
	m := plug(t, withMSIX(endpoint()))
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	m.write(msixCap+2, 2, msixOn)
	m.unmask(0)
	check(t, m.f.Silence())
	m.hw.since()
	check(t, m.f.Close())
	m.want("close", "DisableIRQs ", "CloseWire ", "write config 0x4 0000")
	if m.irqs.Open() != 0 {
		t.Errorf("%d vectors are left", m.irqs.Open())
	}
}
