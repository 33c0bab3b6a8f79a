package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// CPUState is all that KVM tells of a vCPU, to be put back when the machine is reset. KVM can
// neither reset a vCPU nor make it anew while the VM lives.
type CPUState struct {
	regs   *Regs
	sregs  *Sregs
	xsave  XSave
	xcrs   *XCRs
	debug  *DebugRegs
	lapic  *LAPIC
	events *VCPUEvents
	mp     MPState
	nested []byte // struct kvm_nested_state, nil where KVM has none
	msrs   []MSR
	ssp    *uint64 // shadow stack pointer, nil if the CPU lacks it
}

// MSR numbers that a reset treats in its own way.
const (
	msrTSC           = 0x10
	msrMTRRPhysical  = 0x200 // 8 pairs
	msrMTRRPhysicals = 16
	msrHyperV        = 0x40000000 // 256 numbers
	msrHyperVEnd     = 0x40000100
)

// otherMTRRs are the fixed ranges and the default type.
var otherMTRRs = []uint32{0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x2ff}

// struct kvm_nested_state: a header, and where the size of the whole stands in it.
const (
	nestedHeader = 128
	nestedSize   = 4
)

// maxMSRs bounds how far listedMSRs grows its buffer; Linux 6.12 has 150.
const maxMSRs = 4096

// StateParts says what a vCPU's state consists of on this host.
type StateParts struct {
	msrs   []uint32
	nested int // bytes of struct kvm_nested_state, 0 where KVM has none
}

// StateParts finds that out. MSRs of Hyper-V are left out: no guest of ours is offered them,
// some are counters, and reading them costs memory.
func (s *System) StateParts() (*StateParts, error) {
	listed, err := s.listedMSRs()
	if err != nil {
		return nil, err
	}
	return &StateParts{msrs: savedMSRs(listed), nested: s.Capability(uapi.CapNestedState)}, nil
}

func (s *System) listedMSRs() ([]uint32, error) {
	for n := 256; n <= maxMSRs; n *= 2 {
		buf := list(make([]uint32, n))
		_, err := sys.IoctlBytes(s.fd, uapi.GetMSRIndexList, buf)
		if errors.Is(err, syscall.E2BIG) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list the MSRs that KVM saves: %w", err)
		}
		return unlist[uint32](buf), nil
	}
	return nil, fmt.Errorf("list the MSRs that KVM saves: more than %d", maxMSRs)
}

// savedMSRs adds the MTRRs, which KVM lists since Linux 6.5 only.
func savedMSRs(listed []uint32) []uint32 {
	seen := make(map[uint32]bool)
	var all []uint32
	add := func(index uint32) {
		if !seen[index] && (index < msrHyperV || index >= msrHyperVEnd) {
			seen[index] = true
			all = append(all, index)
		}
	}
	for _, index := range listed {
		add(index)
	}
	for i := range uint32(msrMTRRPhysicals) {
		add(msrMTRRPhysical + i)
	}
	for _, index := range otherMTRRs {
		add(index)
	}
	return all
}

// Save reads the vCPU's state. MSRs that this vCPU lacks are left out.
func (c *VCPU) Save(p *StateParts) (*CPUState, error) {
	s := &CPUState{}
	var errs [10]error
	s.mp, errs[0] = c.MPState() // first, because it takes a waiting INIT or SIPI
	s.regs, errs[1] = c.Regs()
	s.sregs, errs[2] = c.Sregs()
	s.xsave, errs[3] = c.XSave()
	s.xcrs, errs[4] = c.XCRs()
	s.debug, errs[5] = c.DebugRegs()
	s.lapic, errs[6] = c.LAPIC()
	s.events, errs[7] = c.Events()
	s.nested, errs[8] = c.nestedState(p.nested)
	s.ssp, errs[9] = shadowStack(c)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	s.msrs = c.readableMSRs(p.msrs)
	return s, nil
}

// Restore puts a state back that Save returned. The vCPU has the CPUID that it had then, is not
// running, and its last exit is completed. The time-stamp counter runs on, in step with those of other vCPUs, as a guest
// finds it at its first boot.
func (c *VCPU) Restore(s *CPUState) error {
	if !c.described {
		return fmt.Errorf("restore the state of vCPU %d: %w", c.id, ErrNoCPUID)
	}
	if _, err := c.MPState(); err != nil {
		return err
	}
	// A CPU in VMX operation refuses the control registers of one that is not; the APIC's
	// registers follow its mode, which is in the system registers.
	for _, step := range []func() error{
		func() error { return c.setNestedState(s.nested) },
		func() error { return c.SetSregs(s.sregs) },
		func() error { return c.SetRegs(s.regs) },
		func() error { return c.SetXSave(s.xsave) },
		func() error { return c.restoreXCRs(s.xcrs) },
		func() error { return c.SetLAPIC(s.lapic) },
		func() error { return c.restoreMSRs(s.msrs) },
		func() error { return setShadowStack(c, s.ssp) },
		func() error { return c.SetEvents(s.events) },
		func() error { return c.SetMPState(s.mp) },
		func() error { return c.SetDebugRegs(s.debug) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// restoreXCRs does nothing on hosts without XSAVE, which have none.
func (c *VCPU) restoreXCRs(x *XCRs) error {
	if x.NrXRCS == 0 {
		return nil
	}
	return c.SetXCRs(x)
}

// readableMSRs reads MSRs without those that the vCPU lacks.
func (c *VCPU) readableMSRs(indices []uint32) []MSR {
	var all []MSR
	for len(indices) > 0 {
		entries := make([]MSR, len(indices))
		for i, index := range indices {
			entries[i].Index = index
		}
		buf := list(entries)
		n, err := sys.IoctlBytes(c.fd, uapi.GetMSRs, buf)
		if err != nil {
			n = 0
		}
		all = append(all, unlist[MSR](buf)[:n]...)
		indices = indices[min(n+1, len(indices)):]
	}
	return all
}

// restoreMSRs writes those that have another value now. KVM answers a write of 0 to the
// time-stamp counter by synchronising it.
func (c *VCPU) restoreMSRs(saved []MSR) error {
	indices := make([]uint32, len(saved))
	for i, m := range saved {
		indices[i] = m.Index
	}
	now, err := c.MSRs(indices...)
	if err != nil {
		return err
	}
	for i, m := range saved {
		switch {
		case m.Index == msrTSC:
			m.Data = 0
		case m == now[i]:
			continue
		}
		if err := c.SetMSRs(m); err != nil {
			return err
		}
	}
	return nil
}

// nestedState reads what KVM knows of the guest as a hypervisor: nil where that is nothing.
func (c *VCPU) nestedState(size int) ([]byte, error) {
	if size < nestedHeader {
		return nil, nil
	}
	state := make([]byte, size)
	binary.LittleEndian.PutUint32(state[nestedSize:], uint32(size))
	if _, err := sys.IoctlBytes(c.fd, uapi.GetNestedState, state); err != nil {
		return nil, fmt.Errorf("get nested state of vCPU %d: %w", c.id, err)
	}
	return state, nil
}

func (c *VCPU) setNestedState(state []byte) error {
	if state == nil {
		return nil
	}
	if _, err := sys.IoctlBytes(c.fd, uapi.SetNestedState, state); err != nil {
		return fmt.Errorf("set nested state of vCPU %d: %w", c.id, err)
	}
	return nil
}

// ChipState is the state of the VM's interrupt controllers and of its timer.
type ChipState struct {
	chips []*IRQChipState
	pit   *PITState
}

// SaveChips reads the state of the interrupt controllers and of the timer, which exist.
func (vm *VM) SaveChips() (*ChipState, error) {
	s := &ChipState{}
	for _, chip := range []IRQChip{PICMaster, PICSlave, IOAPIC} {
		state, err := vm.IRQChip(chip)
		if err != nil {
			return nil, err
		}
		s.chips = append(s.chips, state)
	}
	var err error
	s.pit, err = vm.PIT2()
	return s, err
}

// RestoreChips puts back what SaveChips returned. Lines that devices assert stay asserted.
func (vm *VM) RestoreChips(s *ChipState) error {
	for _, state := range s.chips {
		if err := vm.SetIRQChip(state); err != nil {
			return err
		}
	}
	return vm.SetPIT2(s.pit)
}
