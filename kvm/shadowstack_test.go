package kvm

import (
	"errors"
	"reflect"
	"syscall"
	"testing"

	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// oneRegister is a vCPU with a single register.
type oneRegister struct {
	id, value uint64
	err       error
}

func (r *oneRegister) oneReg(request uintptr, id uint64, value *uint64) error {
	switch {
	case r.err != nil:
		return r.err
	case id != r.id:
		return syscall.EINVAL
	case request == uapi.GetOneReg:
		*value = r.value
	case request == uapi.SetOneReg:
		r.value = *value
	}
	return nil
}

// TestShadowStack: a reset puts the pointer back where there is one.
func TestShadowStack(t *testing.T) {
	r := &oneRegister{id: uapi.RegGuestSSP, value: 0x1000}
	saved, err := shadowStack(r)
	if err != nil || saved == nil || *saved != 0x1000 {
		t.Fatalf("saved %v, %v", saved, err)
	}
	r.value = 0x7fff_0000
	if err := setShadowStack(r, saved); err != nil || r.value != 0x1000 {
		t.Errorf("restored %#x, %v", r.value, err)
	}
	for _, absent := range []error{syscall.EINVAL, syscall.ENOTTY} {
		saved, err := shadowStack(&oneRegister{err: absent})
		if saved != nil || err != nil {
			t.Errorf("%v: saved %v, %v; want nothing", absent, saved, err)
		}
	}
	if err := setShadowStack(&oneRegister{err: syscall.EIO}, nil); err != nil {
		t.Errorf("a vCPU without one: %v", err)
	}
	if _, err := shadowStack(&oneRegister{err: syscall.EIO}); !errors.Is(err, syscall.EIO) {
		t.Errorf("error %v, want EIO", err)
	}
	if err := setShadowStack(&oneRegister{err: syscall.EIO}, saved); !errors.Is(err, syscall.EIO) {
		t.Errorf("error %v, want EIO", err)
	}
}

// TestSaveHasShadowStack: what Save returns has the pointer if KVM gives it.
func TestSaveHasShadowStack(t *testing.T) {
	g := newGuest(t, true)
	parts, err := g.sys.StateParts()
	check(t, err)
	c := g.unbound(0)
	want, err := shadowStack(c)
	check(t, err)
	s, err := c.Save(parts)
	check(t, err)
	if !reflect.DeepEqual(s.ssp, want) {
		t.Errorf("saved %v, want %v", s.ssp, want)
	}
	check(t, c.Restore(s))
}

// TestOneRegister reads and writes an MSR as a single register, which KVM can since it has single registers on x86.
func TestOneRegister(t *testing.T) {
	const pat = 0x277
	const id = uapi.RegX86 | uapi.RegSizeU64 | uapi.RegTypeMSR | pat
	g := newGuest(t, true)
	c := g.unbound(0)
	value := uint64(0x0007010600070106)
	err := c.oneReg(uapi.SetOneReg, id, &value)
	if g.sys.Capability(uapi.CapOneReg) == 0 { // before Linux 6.18
		if !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTTY) {
			t.Errorf("a KVM without single registers answers %v", err)
		}
		return
	}
	check(t, err)
	msrs, err := c.MSRs(pat)
	check(t, err)
	var got uint64
	check(t, c.oneReg(uapi.GetOneReg, id, &got))
	if msrs[0].Data != value || got != value {
		t.Errorf("the MSR has %#x, the register %#x, want %#x", msrs[0].Data, got, value)
	}
}
