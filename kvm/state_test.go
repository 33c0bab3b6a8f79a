package kvm

import (
	"encoding/binary"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestStateReadsBack sets each kind of state and reads it, so that a wrong ioctl or
// layout shows.
func TestStateReadsBack(t *testing.T) {
	g := newGuest(t, true)
	check(t, g.vm.SetTSSAddr(0xfffbd000))
	check(t, g.vm.SetIdentityMapAddr(0xfffbc000))
	check(t, g.vm.CreatePIT2(true))
	c := g.unbound(0)
	supported, err := g.sys.SupportedCPUID()
	check(t, err)
	check(t, c.SetCPUID(GuestCPUID(supported, CPUIDOptions{VCPUs: 1})))

	t.Run("regs", func(t *testing.T) {
		want := &Regs{RAX: 1, R15: 2, RIP: 3, RSP: 4, RFLAGS: rflagsReserved}
		check(t, c.SetRegs(want))
		got, err := c.Regs()
		check(t, err)
		if *got != *want {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("debug regs", func(t *testing.T) {
		want := &DebugRegs{DB: [4]uint64{1, 2, 3, 4}, DR6: 0xffff0ff0, DR7: 0x400}
		check(t, c.SetDebugRegs(want))
		got, err := c.DebugRegs()
		check(t, err)
		if got.DB != want.DB {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("fpu", func(t *testing.T) {
		fpu, err := c.FPU()
		check(t, err)
		fpu.XMM[3][0], fpu.FCW = 0x99, 0x27f
		check(t, c.SetFPU(fpu))
		got, err := c.FPU()
		check(t, err)
		if got.XMM[3][0] != 0x99 || got.FCW != 0x27f {
			t.Errorf("got xmm3 % x, fcw %#x", got.XMM[3], got.FCW)
		}
	})
	t.Run("xsave", func(t *testing.T) {
		x, err := c.XSave()
		check(t, err)
		x[xmm(1)] = 0x34
		x[xstateBV] |= 2 // SSE
		check(t, c.SetXSave(x))
		got, err := c.XSave()
		check(t, err)
		if got[xmm(1)] != 0x34 {
			t.Errorf("got xmm1 %#x", got[xmm(1)])
		}
	})
	t.Run("xcr0", func(t *testing.T) {
		want := initialXCR0(GuestCPUID(supported, CPUIDOptions{VCPUs: 1}))
		got, err := c.XCRs()
		check(t, err)
		if want != 0 && got.Registers[0].Value != want {
			t.Errorf("got %#x, want %#x", got.Registers[0].Value, want)
		}
	})
	t.Run("msrs", func(t *testing.T) {
		const pat, starMSR = 0x277, 0xc0000081
		check(t, c.SetMSRs(MSR{Index: pat, Data: 0x0007010600070106}, MSR{Index: starMSR, Data: 0x23001000000000}))
		got, err := c.MSRs(pat, starMSR)
		check(t, err)
		if len(got) != 2 || got[0].Data != 0x0007010600070106 || got[1].Data != 0x23001000000000 {
			t.Errorf("got %+v", got)
		}
		_, err = c.MSRs(pat, 0xdeadbeef)
		if err == nil || !strings.Contains(err.Error(), "0xdeadbeef") {
			t.Errorf("unknown MSR: %v", err)
		}
		if err := c.SetMSRs(MSR{Index: 0xdeadbeef}); err == nil {
			t.Error("setting an unknown MSR: no error")
		}
	})
	t.Run("mp state", func(t *testing.T) {
		check(t, c.SetMPState(Halted))
		if got, err := c.MPState(); err != nil || got != Halted {
			t.Errorf("got %d, %v", got, err)
		}
		check(t, c.SetMPState(Runnable))
	})
	t.Run("events", func(t *testing.T) {
		check(t, c.NMI())
		got, err := c.Events()
		check(t, err)
		if got.N.Pending == 0 && got.N.Inject == 0 {
			t.Errorf("no NMI in %+v", got)
		}
		check(t, c.SetEvents(&VCPUEvents{}))
	})
	t.Run("lapic", func(t *testing.T) {
		enableLAPIC(t, c)
		got, err := c.LAPIC()
		check(t, err)
		if v := binary.LittleEndian.Uint32(got.Regs[0xf0:]); v != 0x1ff {
			t.Errorf("spurious vector register %#x", v)
		}
	})
	t.Run("pit", func(t *testing.T) {
		p, err := g.vm.PIT2()
		check(t, err)
		p.Channels[2].Count, p.Channels[2].Mode = 1234, 3
		check(t, g.vm.SetPIT2(p))
		got, err := g.vm.PIT2()
		check(t, err)
		if got.Channels[2].Count != 1234 || got.Channels[2].Mode != 3 {
			t.Errorf("got %+v", got.Channels[2])
		}
	})
	t.Run("clock", func(t *testing.T) {
		check(t, g.vm.SetClock(time.Hour))
		if got, err := g.vm.Clock(); err != nil || got < time.Hour {
			t.Errorf("got %v, %v", got, err)
		}
	})
	t.Run("tsc", func(t *testing.T) {
		if khz, err := c.TSCKHz(); err != nil || khz <= 0 {
			t.Errorf("got %d kHz, %v", khz, err)
		}
	})
	t.Run("second vCPU of the same ID", func(t *testing.T) {
		if _, err := g.vm.CreateVCPU(0); !errors.Is(err, syscall.EEXIST) {
			t.Errorf("got %v, want EEXIST", err)
		}
	})
}

// Where things are in an XSAVE area.
const xstateBV = 512

func xmm(n int) int { return 160 + 16*n }

func TestVFIODevice(t *testing.T) {
	g := newGuest(t, false)
	d, err := g.vm.CreateVFIODevice()
	check(t, err)
	defer d.Close()
	if _, err := g.vm.CreateVFIODevice(); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("second device: %v, want EBUSY", err)
	}
	if err := d.Add(g.eventFD().Int()); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("adding an eventfd: %v, want EINVAL", err)
	}
	if err := d.Remove(g.eventFD().Int()); err == nil {
		t.Error("removing what was not added: no error")
	}
	check(t, d.Close())
	check(t, d.Close())
}

func TestEnableCap(t *testing.T) {
	g := newGuest(t, false)
	if err := g.vm.EnableCap(9999); err == nil {
		t.Error("unknown capability: no error")
	}
}
