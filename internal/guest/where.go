package guest

import (
	"errors"
	"fmt"
	"os"

	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/kvm"
)

// EnvNested tells a process in the lab's nested host that it is there.
const EnvNested = "STILE_NESTED"

// Nested reports whether this process runs in the lab.
func Nested() bool { return os.Getenv(EnvNested) == "1" }

// Place is where VMs run.
type Place int

const (
	OnHost Place = iota + 1 // on this machine's KVM
	InLab                   // in a nested host under emulation
)

// Choose decides where VMs run. on is auto, host or lab. notice tells the user what auto did
// that he may not expect, "" if nothing: VMs run in the lab, or on this host although its KVM
// could not be measured. An error says why the choice can't be had.
func Choose(on string) (place Place, notice string, err error) {
	if err := CheckPlace(on); err != nil {
		return 0, "", err
	}
	switch on {
	case "host":
		if Nested() {
			return OnHost, "", nil
		}
		return OnHost, doubts(Speed()), nil
	case "lab":
		return InLab, "", nil
	}
	if Nested() {
		return OnHost, "", nil
	}
	return choose(Speed())
}

// doubts returns what the user, who asked for this host's KVM, should know of it beforehand: that Linux guests won't come up on it.
func doubts(speed kvm.Speed, err error) string {
	if err != nil || speed.RunsLinux() {
		return "" // the VM tells what is wrong
	}
	return "KVM here " + speed.String() + ", so Linux guests are not expected to come up on it: --on lab runs them in a nested host under emulation"
}

// choose decides by what Speed returned. Only a KVM that is missing, or too slow for Linux,
// leads to the lab. Any other failure says nothing of how fast guests run: they run here, where
// they either work or tell what is wrong.
func choose(speed kvm.Speed, err error) (place Place, notice string, _ error) {
	const lab = "running in the lab, a nested host under emulation: "
	switch {
	case errors.Is(err, os.ErrPermission):
		return 0, "", fmt.Errorf("%w; --on lab runs without it", err)
	case errors.Is(err, feature.ErrNotSupported):
		return InLab, lab + err.Error(), nil
	case err != nil:
		return OnHost, fmt.Sprintf("running on this host's KVM although a test of it failed: %v; if the guest does not run, use --on lab", err), nil
	case !speed.RunsLinux():
		return InLab, lab + "KVM here " + speed.String(), nil
	}
	return OnHost, "", nil
}

// CheckPlace refuses what Choose does not know.
func CheckPlace(on string) error {
	switch on {
	case "host", "lab", "auto", "":
		return nil
	}
	return fmt.Errorf("where to run (--on, STILE_ON) is %q: must be auto, host or lab", on)
}

// Speed returns what this host's KVM is, measured once per boot of the host. The error wraps
// feature.ErrNotSupported where there is no KVM that stile can use, and fs.ErrPermission where this
// user may not use it; any other one leaves open what KVM can do.
func Speed() (kvm.Speed, error) {
	system, err := kvm.Open()
	if err != nil {
		return kvm.Speed{}, err
	}
	defer system.Close()
	if err := system.RequireMachine(); err != nil {
		return kvm.Speed{}, err
	}
	return rememberSpeed(system.MeasureSpeed)
}
