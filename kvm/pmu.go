package kvm

import (
	"errors"
	"fmt"
	"syscall"

	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// createVCPU makes a vCPU, without a PMU where KVM can't have the CPU's now.
//
// A host with a mediated PMU (Linux 7.0, enable_mediated_pmu of KVM's modules) hands the PMU over
// to its guests. The first vCPU takes it, and KVM_CREATE_VCPU answers EBUSY while events of the
// host count in guests too, such as the NMI watchdog's. A VM can do without a PMU.
func (vm *VM) createVCPU(id int) (int, error) {
	n, err := vm.kernel.createVCPU(vm, id)
	if err != syscall.EBUSY || vm.noPMU.Load() {
		return n, err
	}
	if off := vm.EnableCap(uapi.CapPMUCapability, uapi.PMUCapDisable); off != nil {
		return 0, errors.Join(err, fmt.Errorf("do without a PMU, which the host's perf events may use: %w", off))
	}
	vm.noPMU.Store(true)
	return vm.kernel.createVCPU(vm, id)
}

// LacksPMU reports whether the VM's vCPUs have no PMU because the host's perf events, or its NMI
// watchdog, use the CPU's. It is known once there is a vCPU; their CPUID says so (CPUIDOptions).
func (vm *VM) LacksPMU() bool { return vm.noPMU.Load() }

// Where CPUID tells of a PMU (Intel SDM 2A, CPUID; AMD APM 3, appendix E).
const (
	leafPMU      = 0xa
	leafPMUV6    = 0x23 // architectural performance monitoring, extended
	leafAMDPMUV2 = 0x80000022

	bitPDCM        = 15 // leaf 1 ECX: IA32_PERF_CAPABILITIES
	bitPerfCtrCore = 23 // leaf 0x80000001 ECX
	bitPerfCtrNB   = 24
	bitPerfCtrLLC  = 28
)

// hidePMU clears what e tells of a PMU.
func hidePMU(e *CPUIDEntry) {
	switch e.Function {
	case leafFeatures:
		setBit(&e.Ecx, bitPDCM, false)
	case leafAMDFeatures:
		for _, bit := range []int{bitPerfCtrCore, bitPerfCtrNB, bitPerfCtrLLC} {
			setBit(&e.Ecx, bit, false)
		}
	case leafPMU, leafPMUV6, leafAMDPMUV2:
		e.Eax, e.Ebx, e.Ecx, e.Edx = 0, 0, 0, 0
	}
}
