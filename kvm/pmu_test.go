package kvm

import (
	"errors"
	"syscall"
	"testing"

	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// busyPMU is a KVM whose mediated PMU can't have the CPU's counters now.
type busyPMU struct {
	linux
	offerOff bool // whether VMs can do without
	without  *VM  // the VM that does
	creates  int
}

func (k *busyPMU) createVCPU(vm *VM, id int) (int, error) {
	k.creates++
	if k.without != vm {
		return 0, syscall.EBUSY
	}
	return k.linux.createVCPU(vm, id)
}

func (k *busyPMU) enableCap(vm *VM, arg *uapi.EnableCap) error {
	if Capability(arg.Cap) != uapi.CapPMUCapability || arg.Args[0] != uapi.PMUCapDisable || !k.offerOff {
		return syscall.EINVAL
	}
	k.without = vm
	return nil
}

func TestVCPUWithoutPMU(t *testing.T) {
	s := newSystem(t)
	k := &busyPMU{offerOff: true}
	s.kernel = k
	g := newGuestOn(t, s, true)
	if g.vm.LacksPMU() {
		t.Error("the PMU is gone before anybody asked")
	}
	g.unbound(0)
	g.unbound(1)
	if !g.vm.LacksPMU() || k.creates != 3 {
		t.Errorf("PMU gone: %v after %d calls, want true after 3", g.vm.LacksPMU(), k.creates)
	}

	k = &busyPMU{}
	s.kernel = k
	vm, err := s.CreateVM()
	check(t, err)
	defer vm.Close()
	if _, err := vm.CreateVCPU(0); !errors.Is(err, syscall.EBUSY) || !errors.Is(err, syscall.EINVAL) || k.creates != 1 {
		t.Errorf("%v after %d calls, want EBUSY and EINVAL after 1", err, k.creates)
	}
}

func TestGuestCPUIDHidesPMU(t *testing.T) {
	all := ^uint32(0)
	host := []CPUIDEntry{
		leaf(0, 0, 0x23, 0, 0, 0), leaf(leafFeatures, 0, 0, 0, all, 0), leaf(leafPMU, 0, all, all, all, all),
		leaf(leafPMUV6, 0, all, all, all, all), leaf(leafAMDFeatures, 0, 0, 0, all, 0), leaf(leafAMDPMUV2, 0, all, all, all, all),
	}
	got := GuestCPUID(host, CPUIDOptions{HidePMU: true})
	for _, function := range []uint32{leafPMU, leafPMUV6, leafAMDPMUV2} {
		if e := must(t, got, function, 0); e.Eax|e.Ebx|e.Ecx|e.Edx != 0 {
			t.Errorf("leaf %#x is %+v", function, e)
		}
	}
	if e := must(t, got, leafFeatures, 0); e.Ecx>>15&1 != 0 {
		t.Errorf("leaf 1 ECX %#x has PDCM", e.Ecx)
	}
	if e := must(t, got, leafAMDFeatures, 0); e.Ecx&(1<<23|1<<24|1<<28) != 0 {
		t.Errorf("leaf 0x80000001 ECX %#x has counters", e.Ecx)
	}
	if e := must(t, GuestCPUID(host, CPUIDOptions{}), leafPMU, 0); e.Eax != all {
		t.Errorf("leaf 0xa %+v changed without being asked", e)
	}
}
