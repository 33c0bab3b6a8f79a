package testrun

import (
	"context"

	"github.com/stile-vmm/stile/internal/guest"
)

// VM is a guest that has its place in this machine's Room.
type VM struct {
	*guest.Running
	place *Place
}

// Start is guest.Start once there is room. idle is for Room.Take.
func Start(ctx context.Context, spec guest.Spec, where guest.Anywhere, idle func() bool) (*VM, error) {
	memory := spec.Memory
	if memory == 0 {
		memory = guest.DefaultMemory
	}
	place, err := MachineRoom().Take(ctx, memory, idle)
	if err != nil {
		return nil, err
	}
	g, err := guest.Start(ctx, spec, where)
	if err != nil {
		place.Release()
		return nil, err
	}
	return &VM{g, place}, nil
}

// Close ends the guest, in order where it must be, and gives its place back.
func (v *VM) Close() error {
	defer v.place.Release()
	return v.Running.Close()
}
