package vmm

import (
	"errors"
	"fmt"
	"time"

	"github.com/stile-vmm/stile/kvm"
	"github.com/stile-vmm/stile/vfio"
)

// RebootPolicy says what a guest's reset of its machine does.
type RebootPolicy string

const (
	RebootExit  RebootPolicy = "exit"  // end the VM; also the zero value's meaning
	RebootReset RebootPolicy = "reset" // reset it, and boot the guest again
)

func (p RebootPolicy) valid() bool { return p == "" || p == RebootExit || p == RebootReset }

// powerOn is the state of a machine that has not run yet, as far as it is KVM's.
type powerOn struct {
	cpus  []*kvm.CPUState
	chips *kvm.ChipState
}

// savePowerOn reads that state.
func (v *VM) savePowerOn(system *kvm.System) error {
	if v.cfg.OnReboot != RebootReset {
		return nil
	}
	parts, err := system.StateParts()
	if err != nil {
		return err
	}
	for _, c := range v.cpus {
		state, err := c.vcpu.Save(parts)
		if err != nil {
			return err
		}
		v.powerOn.cpus = append(v.powerOn.cpus, state)
	}
	v.powerOn.chips, err = v.vm.SaveChips()
	return err
}

// restart makes Run reset the machine, and reports whether that is what the guest's resets are
// to do. A kernel that has panicked has ended, whatever it does then.
func (v *VM) restart() bool {
	_, faulted := v.Fault()
	if v.cfg.OnReboot != RebootReset || faulted || v.leaving.Load() != nil {
		return false
	}
	if v.resetting.CompareAndSwap(false, true) {
		v.resets <- struct{}{}
	}
	return true
}

// reset puts the machine into the state in which New left it. All vCPUs have returned. Devices
// of the host keep their DMA maps; they are reset before anything is written to the RAM that
// they can reach.
func (v *VM) reset() error {
	begin := time.Now()
	defer v.resetting.Store(false)
	for _, step := range []func() error{
		v.host.silence,
		v.resetDevices,
		v.rebooting,
		func() error { v.host.reset(v); return nil },
		v.restorePowerOn,
		v.host.revive,
	} {
		if err := step(); err != nil {
			return fmt.Errorf("reset the machine: %w", err)
		}
	}
	entry, err := v.load()
	if err == nil {
		err = enter(v.cpus[0].vcpu, entry)
	}
	if err != nil {
		return fmt.Errorf("boot again: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reboots++
	v.resetTime += time.Since(begin)
	return nil
}

// rebooting lets whoever has the agent's port end its conversation, and begins another one.
func (v *VM) rebooting() error {
	if v.cfg.Rebooting == nil {
		return nil
	}
	if err := v.cfg.Rebooting(); err != nil {
		return err
	}
	if v.devices.agent != nil {
		if err := v.devices.agent.Reopen(); err != nil {
			return err
		}
	}
	if v.cfg.Rebooted != nil {
		v.cfg.Rebooted()
	}
	return nil
}

// restorePowerOn resets what is KVM's.
func (v *VM) restorePowerOn() error {
	for i, c := range v.cpus {
		if err := c.vcpu.Restore(v.powerOn.cpus[i]); err != nil {
			return err
		}
	}
	return v.vm.RestoreChips(v.powerOn.chips)
}

// resetDevices resets the devices on the buses. Their drivers are gone. A folder may hold that up, and does not hold up the VM's end.
func (v *VM) resetDevices() error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		v.devices.root.Reset()
		v.devices.board.Reset()
	}()
	select {
	case <-done:
		return nil
	case <-v.ended:
		return errors.New("the VM ends")
	}
}

// silence ends the interrupts and the DMA of the host's devices.
func (h *hostDevices) silence() error {
	var errs []error
	for _, d := range h.devices {
		errs = append(errs, d.function.Silence())
	}
	return errors.Join(errs...)
}

// reset resets the host's devices, which are silent and not mapped. The user is told, once, of
// one that cannot be.
func (h *hostDevices) reset(v *VM) {
	var r vfio.Resetter
	for _, d := range h.devices {
		d.noteReset(v, r.Reset(d.vfio))
	}
}

// revive gives them interrupts again.
func (h *hostDevices) revive() error {
	for _, d := range h.devices {
		if err := d.function.Revive(); err != nil {
			return fmt.Errorf("device %s: %w", d.node.Name, err)
		}
	}
	return nil
}

// maxSettle bounds how often settle looks at a vCPU: a guest's string instruction can take a
// while, and a hostile one for ever.
const maxSettle = 1 << 16

// settle completes the access that was the vCPU's last exit, which KVM does when it runs the
// next time. What it has begun must not write to registers that were reset.
func (c *cpu) settle() {
	for range maxSettle {
		if err := c.loop.Kick(); err != nil {
			c.fail(err)
			return
		}
		exit, err := c.loop.Run()
		if err != nil {
			c.fail(err)
			return
		}
		if exit.Reason == kvm.ExitInterrupted || !c.handle(exit) {
			return
		}
	}
	c.fail(errors.New("it does not come to the end of an instruction"))
}
