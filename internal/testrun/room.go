package testrun

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/control"
	"github.com/stile-vmm/stile/internal/hostmem"
)

// Room is how many VMs the tests of a user may run at a time on this machine: a file of which each running VM has
// some bytes locked. The locks belong to open files, so that they end with the process however it ends.
//
// Byte 0 is held while others are gathered. Then there is a byte for each VM, and one for each unit of memory.
type Room struct {
	path     string
	fault    error // why there is no path
	machines int64 // how many VMs
	units    int64 // how much memory
	patience time.Duration
}

const (
	roomUnit     = 256 << 20 // bytes
	vmsPerCPU    = 4
	roomInterval = 100 * time.Millisecond
	roomPatience = 5 * time.Minute
	// roomBeside is what a VM takes beside the guest's memory, in bytes: a nested host, where it runs in one.
	roomBeside = 256 << 20
)

// MachineRoom returns this machine's room: three quarters of the memory that a process like this one may have, and four VMs for each CPU.
func MachineRoom() *Room {
	r := &Room{
		machines: int64(vmsPerCPU * runtime.NumCPU()), units: 1, patience: roomPatience,
	}
	// In a folder of the user's own: in one for temporary files, others could take the name.
	if dir, err := control.Dir(); err == nil {
		r.path = filepath.Join(dir, "tests.lock")
	} else {
		r.fault = err
	}
	if limit, err := hostmem.Max(); err == nil {
		r.units = max(1, int64(limit.Bytes/4*3/roomUnit))
	}
	return r
}

// Place is what a VM holds of a Room.
type Place struct{ file *os.File }

// Release gives it back.
func (p *Place) Release() { _ = p.file.Close() } // and with it the locks

// Take waits for room for a VM with so many bytes of memory. When it has waited for long it goes ahead: a test that holds a
// VM and waits for a second one would wait for ever if all did so. idle, if not nil, is asked to end a VM that nobody uses, and
// says whether it did. The caller releases the place.
func (r *Room) Take(ctx context.Context, memory uint64, idle func() bool) (*Place, error) {
	if r.fault != nil {
		return nil, fmt.Errorf("room for a VM: %w", r.fault)
	}
	f, err := os.OpenFile(r.path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("room for a VM: %w", err)
	}
	p := &Place{f}
	wanted := min(r.units, int64((memory+roomBeside+roomUnit-1)/roomUnit))
	for end := time.Now().Add(r.patience); ; {
		got, err := r.gather(f, wanted)
		if err != nil {
			p.Release()
			return nil, fmt.Errorf("room for a VM: %w", err)
		}
		if got || time.Now().After(end) {
			return p, nil
		}
		if idle != nil && idle() {
			continue
		}
		select {
		case <-ctx.Done():
			p.Release()
			return nil, context.Cause(ctx)
		case <-time.After(roomInterval): // no lock can be waited for and given up
		}
	}
}

// gather locks a VM's bytes, all of them or none.
func (r *Room) gather(f *os.File, units int64) (bool, error) {
	if ok, err := lockByte(f, 0); !ok {
		return false, err
	}
	defer lock(f, unix.F_UNLCK, 0, 1)
	machine, err := lockSome(f, 1, r.machines, 1)
	if err == nil && machine {
		var memory bool
		if memory, err = lockSome(f, 1+r.machines, r.units, units); memory {
			return true, nil
		}
	}
	return false, errors.Join(err, lock(f, unix.F_UNLCK, 1, r.machines+r.units))
}

// lockSome locks wanted of the n bytes from start on.
func lockSome(f *os.File, start, n, wanted int64) (bool, error) {
	for at := start; at < start+n && wanted > 0; at++ {
		ok, err := lockByte(f, at)
		if err != nil {
			return false, err
		}
		if ok {
			wanted--
		}
	}
	return wanted == 0, nil
}

func lockByte(f *os.File, at int64) (bool, error) {
	err := lock(f, unix.F_WRLCK, at, 1)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, err
}

func lock(f *os.File, kind int16, start, n int64) error {
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: start, Len: n})
}
