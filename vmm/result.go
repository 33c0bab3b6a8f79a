package vmm

import (
	"fmt"
	"slices"
	"time"

	"github.com/stile-vmm/stile/internal/kreport"
)

// Reason tells why a VM ended.
type Reason string

const (
	PowerOff    Reason = "poweroff"      // the guest switched itself off (ACPI S5)
	Reset       Reason = "reset"         // the guest asked for a reboot
	Panic       Reason = "panic"         // the guest kernel panicked (pvpanic, or said so on its console)
	TripleFault Reason = "triple-fault"  // a vCPU shut down
	DebugExit   Reason = "debug-exit"    // the guest wrote to the debug-exit port
	Failed      Reason = "failed"        // KVM could not go on
	Oops        Reason = "oops"          // the guest kernel has a fault, see Config.OnReport; so have other kinds of report
	Lockup      Reason = "lockup"        // a CPU of the guest does not schedule any more, says its kernel
	OutOfMemory Reason = "out-of-memory" // the guest kernel killed a process; see VM.Said, as no VM ends by it
	Stalled     Reason = "boot-stalled"  // the boot makes no progress
	Hung        Reason = "hung"          // the agent does not answer any more
	// DeviceWanted and DeviceError are what Config.OnUnplug and OnDeviceError are about.
	DeviceWanted Reason = "device-wanted"
	DeviceError  Reason = "device-error"
	Canceled     Reason = "canceled" // the context given to Run ended
)

// Result is how a VM's run ended.
type Result struct {
	Reason Reason `json:"reason"`
	Code   int    `json:"code,omitempty"`   // what was written to the debug-exit port
	Detail string `json:"detail,omitempty"` // for a person: vCPU state of a fault, the panic's first line
	// Reboots is how often the guest was booted again.
	Reboots int `json:"reboots,omitempty"`
}

func (r Result) String() string {
	if r.Detail == "" {
		return string(r.Reason)
	}
	return fmt.Sprintf("%s: %s", r.Reason, r.Detail)
}

// Died reports whether the guest ended by a fault of its own.
func (r Result) Died() bool {
	switch r.Reason {
	case Panic, TripleFault, Failed, DeviceError, Stalled, Hung:
		return true
	}
	return r.Reported()
}

// Reported reports whether the guest ended by a fault that its kernel reported.
func (r Result) Reported() bool { return slices.Contains(kreport.Chosen(), kreport.Kind(r.Reason)) }

// Phase is a point on a VM's way.
type Phase struct {
	Name string
	At   time.Time
}

// Stats counts what a VM cost. Counts are exits to user space.
type Stats struct {
	Exits   map[string]uint64 `json:"exits"`   // by reason
	Devices map[string]uint64 `json:"devices"` // by the device or port that was accessed
	Reboots int               `json:"reboots"`
	Stops   uint64            `json:"stops"` // how often this process was stopped for seconds, and the guest with it
	// IOCTLs counts calls of KVM that may wait for other parts of the kernel, see kvm.VM.Calls.
	IOCTLs  map[string]uint64 `json:"ioctls"`
	ResetMS float64           `json:"reset_ms"` // between the guest's resets and its next first instructions, in all
	// SpuriousErrors is how often KVM refused an access for the delivery of an event that was over, and
	// emulated it when it was asked again. See docs/lab.md.
	SpuriousErrors uint64 `json:"spurious_errors"`
}
