package legacy

import "fmt"

// Kind is what happened to the guest's power.
type Kind int

// The kinds of events.
const (
	PowerOff  Kind = iota + 1 // ACPI S5
	Reset                     // ACPI reset register, keyboard controller or port CF9
	Panic                     // pvpanic; Value is what the guest wrote
	DebugExit                 // Value is the byte that the guest wrote
)

func (k Kind) String() string {
	switch k {
	case PowerOff:
		return "power off"
	case Reset:
		return "reset"
	case Panic:
		return "panic"
	case DebugExit:
		return "debug exit"
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// Event is a change of the guest's power state that the guest asked for.
type Event struct {
	Kind  Kind
	Value uint8
}

// Notify takes events. It is called on the vCPU that caused the event, which continues
// when it returns, so it must not wait for vCPUs to stop. Several vCPUs may call at once.
type Notify func(Event)
