// Package irq holds the contracts between what raises interrupts and what delivers
// them. It has no implementation: vmm provides one on KVM, tests provide fakes.
package irq

// Message is a message-signalled interrupt as the guest programs it (PCI 3.0, 6.8).
type Message struct {
	Address uint64
	Data    uint32
}

// Vector is one message-signalled interrupt source. What signals its eventfd, if it is asked for one,
// reaches the guest without the VMM while the vector is routed.
// All methods may be called concurrently.
type Vector interface {
	// Route connects the vector to the guest's message. Routing to the same message
	// again costs nothing.
	Route(Message) error
	// Unroute disconnects it, as when the guest masks the vector. A later Trigger is
	// kept for Pending, and not delivered.
	Unroute() error
	// Trigger raises the interrupt once.
	Trigger() error
	// Pending takes what was triggered while the vector was not routed, and reports
	// whether that was anything.
	Pending() bool
	// EventFD returns a descriptor that raises the interrupt when it is signalled, for irqfd users such
	// as VFIO. It stays valid until Close. What nobody asks for costs nothing.
	EventFD() (int, error)
	// Close frees the vector's GSI and eventfd.
	Close() error
}

// Line is a wired interrupt line. Level-triggered lines stay asserted until Set(false).
type Line interface {
	Set(level bool) error
}

// Allocator hands out interrupts of one VM.
type Allocator interface {
	NewVector() (Vector, error)
	// Line returns the line at a pin of the I/O APIC (layout.GSI…).
	Line(gsi uint32) (Line, error)
}
