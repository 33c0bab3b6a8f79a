package guest

import (
	"errors"
	"fmt"
	"time"

	"github.com/stile-vmm/stile/lab"
	"github.com/stile-vmm/stile/vmm"
)

// BootTimeoutError says that the guest's agent did not start in time.
type BootTimeoutError struct{ After time.Duration }

func (e *BootTimeoutError) Error() string {
	return fmt.Sprintf("the guest's agent did not start within %v; the kernel log's end may tell why, --boot-timeout allows more", e.After)
}

// DiedError says that the guest ended before its command did.
type DiedError struct{ Result vmm.Result }

func (e *DiedError) Error() string {
	switch e.Result.Reason {
	case vmm.PowerOff:
		return "the guest powered itself off before the command ended"
	case vmm.Reset:
		return "the guest reset itself before the command ended"
	case vmm.Panic:
		return "the guest's kernel panicked: " + e.Result.Detail
	case vmm.DeviceWanted, vmm.DeviceError:
		return "the VM was stopped: " + e.Result.Detail
	case vmm.Lockup:
		return "a CPU of the guest is locked up: " + e.Result.Detail
	case vmm.Stalled:
		return "the guest's boot makes no progress: " + e.Result.Detail
	case vmm.Hung:
		return "the guest hangs: " + e.Result.Detail
	case vmm.OutOfMemory:
		return "the command was killed, because the guest ran out of memory: -m gives it more"
	case vmm.TripleFault:
		return "the guest died of a triple fault:\n" + e.Result.Detail
	}
	if e.Result.Reported() {
		return fmt.Sprintf("the guest's kernel reported a fault (%s): %s", e.Result.Reason, e.Result.Detail)
	}
	return "the guest died: " + e.Result.String()
}

// NoQEMUError says that the lab can't run because there is no QEMU, or too old a one.
type NoQEMUError = lab.NoQEMUError

// ExitStatus returns the status that stile ends with because of err.
func ExitStatus(err error) int {
	var timeout *BootTimeoutError
	var died *DiedError
	var ended *EndedError
	switch {
	case errors.As(err, &ended):
		return ended.ExitStatus()
	case errors.As(err, &timeout):
		return ExitTimeout
	case errors.As(err, &died) && died.Result.Reason == vmm.Stalled:
		return ExitTimeout
	case errors.As(err, &died), errors.As(err, new(*LabDiedError)):
		return ExitDied
	}
	return ExitSetup
}
