package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"

	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/internal/control"
	"github.com/stile-vmm/stile/vmm"
)

// machineTarget steers what a VM has without an agent.
type machineTarget struct {
	vm    *vmm.VM
	disks []vmm.Disk // in the VM's order
	kill  func()
	// typed is where console input goes.
	typed io.Writer
}

func (t *machineTarget) input() io.Writer { return t.typed }

func (t *machineTarget) describe(_ context.Context, info *control.Info) {
	if b, ok := t.vm.Balloon(); ok {
		info.Balloon = &control.Balloon{Target: b.Target, Actual: b.Actual, Reported: b.Reported}
	}
	if cid := t.vm.VsockCID(); cid != 0 {
		info.Vsock = &control.Vsock{CID: cid}
	}
	info.Disks = nil
	for i, d := range t.disks {
		info.Disks = append(info.Disks, control.Disk{Path: d.Path, Serial: d.Serial, Size: t.vm.DiskSize(i), Writes: writes(d)})
	}
}

// writes says what becomes of a guest's writes to a disk.
func writes(d vmm.Disk) string {
	switch {
	case d.COW:
		return "dropped"
	case d.ReadOnly:
		return "refused"
	}
	return "kept"
}

func (t *machineTarget) do(_ context.Context, r *control.Request) error {
	switch r.Op {
	case control.OpKill:
		t.kill()
		return nil
	case control.OpShutdown:
		return t.vm.PressPowerButton()
	case control.OpBalloon:
		return t.vm.SetBalloon(r.Size)
	case control.OpResize:
		return t.resize(r)
	case control.OpReboot:
		return errors.New("reboot: that takes stile's agent in the guest")
	}
	return fmt.Errorf("operation %q is unknown", r.Op)
}

// resize gives a disk another size. A disk is named by its serial number, or by its place among the disks.
func (t *machineTarget) resize(r *control.Request) error {
	at := slices.IndexFunc(t.disks, func(d vmm.Disk) bool { return d.Serial == r.Disk })
	if at < 0 {
		var err error
		if at, err = strconv.Atoi(r.Disk); err != nil {
			return fmt.Errorf("resize: no disk has the serial number %q; stile ctl ID status shows the VM's disks", r.Disk)
		}
	}
	if r.Size > math.MaxInt64 {
		return fmt.Errorf("resize: %d bytes are too many", r.Size)
	}
	err := t.vm.ResizeDisk(at, int64(r.Size), r.Shrink)
	if errors.Is(err, virtio.ErrShrinks) {
		return fmt.Errorf("%w; stile ctl ID resize --shrink does it", err)
	}
	return err
}

// guestTarget steers a guest with an agent.
type guestTarget struct {
	machineTarget
	guest *Guest
}

func (t *guestTarget) do(ctx context.Context, r *control.Request) error {
	if !t.guest.ready.Load() {
		return t.machineTarget.do(ctx, r) // the power button, before there is an agent
	}
	switch r.Op {
	case control.OpShutdown:
		return t.guest.Session().PowerOff(ctx)
	case control.OpReboot:
		if !t.guest.spec.Reboots() {
			return errors.New("reboot: it would end this run, as --on-reboot exit has it: run it with --on-reboot reset, or use shutdown")
		}
		return t.guest.Session().Reboot(ctx)
	}
	return t.machineTarget.do(ctx, r)
}

// workerTarget steers a guest in the nested host whose agent is connected from here.
type workerTarget struct {
	guest *LabGuest
	host  *LabHost
}

func (t *workerTarget) do(ctx context.Context, r *control.Request) error {
	switch r.Op {
	case control.OpKill:
		return t.host.Close()
	case control.OpShutdown:
		return t.guest.session.PowerOff(ctx)
	case control.OpReboot:
		return t.guest.session.Reboot(ctx)
	}
	return fmt.Errorf("%s: not of a VM that a test runs in the lab", r.Op)
}

func (t *workerTarget) describe(context.Context, *control.Info) {}

func (t *workerTarget) input() io.Writer { return io.Discard }

// EndedError says that a VM was ended through its control socket.
type EndedError struct{ By control.Op }

func (e *EndedError) Error() string {
	if e.By == control.OpKill {
		return "the VM was killed by stile ctl"
	}
	return "the guest was shut down by stile ctl"
}

// Exit statuses of VMs that were ended through their control sockets: as of a command that a signal ended.
const (
	exitShutdown = 128 + 15
	exitKilled   = 128 + 9
)

// ExitStatus returns the status that stile ends with.
func (e *EndedError) ExitStatus() int {
	if e.By == control.OpKill {
		return exitKilled
	}
	return exitShutdown
}
