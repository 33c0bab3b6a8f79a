package pci

// Mapper makes parts of BARs reachable for the guest without a handler. vmm implements
// it on KVM. Calls come with a function's lock held, from the vCPU that wrote the config
// register; they must not call back into pci.
type Mapper interface {
	// MapHost makes host memory appear at gpa (guest-physical, page-aligned).
	MapHost(gpa uint64, h Host) error
	// UnmapHost undoes MapHost with the same arguments.
	UnmapHost(gpa uint64, h Host) error
	// AddDoorbell makes guest writes at addr signal the doorbell's eventfd. An error
	// leaves the doorbell to the handler below it; errors.ErrUnsupported is silent.
	AddDoorbell(space Space, addr uint64, d Doorbell) error
	// RemoveDoorbell undoes AddDoorbell with the same arguments. The eventfd may go on being signalled
	// until Decode is called for the address: a driver that switches decoding off and on again, as all
	// do, then costs nothing.
	RemoveDoorbell(space Space, addr uint64, d Doorbell) error
	// Decode tells that a BAR of size bytes is decoded at addr from now on, with these doorbells, or that
	// its addresses are given away, with none. Removed doorbells there that are no doorbells of the
	// BAR signal nothing any more.
	Decode(space Space, addr, size uint64, bells []Doorbell) error
}

// Space tells ports from memory.
type Space int

// The two address spaces of BARs.
const (
	Memory Space = iota
	IO
)

func (s Space) String() string {
	if s == IO {
		return "I/O"
	}
	return "memory"
}
