package kvm

import (
	"fmt"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// Reason says why Run returned.
type Reason uint32

// The reasons that stile meets; others are possible and have a number only.
const (
	ExitUnknown       Reason = uapi.ExitUnknown
	ExitException     Reason = uapi.ExitException
	ExitIO            Reason = uapi.ExitIO
	ExitHypercall     Reason = uapi.ExitHypercall
	ExitDebug         Reason = uapi.ExitDebug
	ExitHLT           Reason = uapi.ExitHLT
	ExitMMIO          Reason = uapi.ExitMMIO
	ExitIRQWindowOpen Reason = uapi.ExitIRQWindowOpen
	ExitShutdown      Reason = uapi.ExitShutdown // triple fault
	ExitFailEntry     Reason = uapi.ExitFailEntry
	ExitInterrupted   Reason = uapi.ExitIntr // Kick
	ExitSetTPR        Reason = uapi.ExitSetTPR
	ExitTPRAccess     Reason = uapi.ExitTPRAccess
	ExitNMI           Reason = uapi.ExitNMI
	ExitInternalError Reason = uapi.ExitInternalError
	ExitSystemEvent   Reason = uapi.ExitSystemEvent
	ExitIOAPICEOI     Reason = uapi.ExitIOAPICEOI
	ExitHyperV        Reason = uapi.ExitHyperV
	ExitRDMSR         Reason = uapi.ExitRDMSR
	ExitWRMSR         Reason = uapi.ExitWRMSR
	ExitBusLock       Reason = uapi.ExitBusLock
	ExitNotify        Reason = uapi.ExitNotify
)

func (r Reason) String() string {
	switch r {
	case ExitUnknown:
		return "unknown"
	case ExitException:
		return "exception"
	case ExitIO:
		return "io"
	case ExitHypercall:
		return "hypercall"
	case ExitDebug:
		return "debug"
	case ExitHLT:
		return "hlt"
	case ExitMMIO:
		return "mmio"
	case ExitIRQWindowOpen:
		return "irq-window"
	case ExitShutdown:
		return "shutdown"
	case ExitFailEntry:
		return "fail-entry"
	case ExitInterrupted:
		return "interrupted"
	case ExitSetTPR:
		return "set-tpr"
	case ExitTPRAccess:
		return "tpr-access"
	case ExitNMI:
		return "nmi"
	case ExitInternalError:
		return "internal-error"
	case ExitSystemEvent:
		return "system-event"
	case ExitIOAPICEOI:
		return "ioapic-eoi"
	case ExitHyperV:
		return "hyper-v"
	case ExitRDMSR:
		return "rdmsr"
	case ExitWRMSR:
		return "wrmsr"
	case ExitBusLock:
		return "bus-lock"
	case ExitNotify:
		return "notify"
	}
	return fmt.Sprintf("exit %d", uint32(r))
}

// Exit is what ended a Run. It is a view of memory that the next Run overwrites; the guest
// can't reach it. The accessor that belongs to Reason is the only valid one.
type Exit struct {
	Reason Reason
	vcpu   *VCPU
}

// NewExit returns the exit that run describes, for tests of what answers exits: it belongs to no
// vCPU, and its IO has no data.
func NewExit(run *uapi.Run) Exit {
	return Exit{Reason: Reason(run.ExitReason), vcpu: &VCPU{run: run, page: new(sys.Mapping)}}
}

// IO is a port access of Count items of Size bytes. A string instruction has Count > 1;
// each item goes to the same port.
type IO struct {
	Port  uint16
	Size  int // bytes: 1, 2 or 4
	Count int
	Out   bool   // the guest writes
	Data  []byte // Size × Count bytes: what the guest wrote, or where the answer goes
}

// IO returns the port access of an ExitIO.
func (e Exit) IO() IO {
	io := union[uapi.RunIO](e.vcpu)
	access := IO{Port: io.Port, Size: int(io.Size), Count: int(io.Count), Out: io.Direction == uapi.IOOut}
	page := e.vcpu.page.Bytes()
	end := io.Offset + uint64(io.Size)*uint64(io.Count)
	if io.Offset <= uint64(len(page)) && end <= uint64(len(page)) {
		access.Data = page[io.Offset:end:end]
	}
	return access
}

// MMIO is an access to guest-physical memory that no slot backs, or a write to a
// read-only slot. An access wider than 8 bytes or across a page comes in parts.
type MMIO struct {
	Addr  uint64 // guest-physical
	Write bool
	Data  []byte // 1 to 8 bytes: what the guest wrote, or where the answer goes
}

// MMIO returns the memory access of an ExitMMIO.
func (e Exit) MMIO() MMIO {
	mmio := union[uapi.RunMMIO](e.vcpu)
	n := min(int(mmio.Len), len(mmio.Data))
	return MMIO{Addr: mmio.Addr, Write: mmio.IsWrite != 0, Data: mmio.Data[:n:n]}
}

// SystemEvent is a request of the guest to the machine.
type SystemEvent struct {
	Type uint32 // KVM_SYSTEM_EVENT_…: 1 shutdown, 2 reset, 3 crash
	Data [16]uint64
}

// SystemEvent returns the event of an ExitSystemEvent.
func (e Exit) SystemEvent() SystemEvent {
	event := union[uapi.RunSystemEvent](e.vcpu)
	s := SystemEvent{Type: event.Type}
	copy(s.Data[:min(int(event.NData), len(s.Data))], event.Data[:])
	return s
}

// InternalError is KVM giving up on the guest.
type InternalError struct {
	SubError uint32
	// Instruction holds the bytes KVM could not emulate, if it tells. Copied.
	Instruction []byte
	// Data is what KVM adds, in no documented form. Copied.
	Data []uint64
}

// InternalError returns the cause of an ExitInternalError.
func (e Exit) InternalError() InternalError {
	internal := union[uapi.RunInternal](e.vcpu)
	n := min(int(internal.NData), len(internal.Data))
	ierr := InternalError{
		SubError: internal.SubError,
		Data:     append([]uint64(nil), internal.Data[:n]...),
	}
	failure := union[uapi.RunEmulationFailure](e.vcpu)
	// The flags and 16 bytes of instruction are the first three words of Data.
	if failure.SubError == uapi.InternalErrorEmulation && failure.NData >= 3 &&
		failure.Flags&uapi.EmulationInstructionBytes != 0 {
		n := min(int(failure.Size), len(failure.Bytes))
		ierr.Instruction = append([]byte(nil), failure.Bytes[:n]...)
	}
	return ierr
}

func (e InternalError) String() string {
	cause := fmt.Sprintf("suberror %d", e.SubError)
	switch e.SubError {
	case uapi.InternalErrorEmulation:
		cause = "an instruction can't be emulated"
	case uapi.InternalErrorSimulEx:
		cause = "simultaneous exceptions"
	case uapi.InternalErrorDeliveryEv:
		cause = "an exit during the delivery of an event"
	case uapi.InternalErrorUnexpectedExitReason:
		cause = "an unexpected exit of the CPU"
	}
	if len(e.Instruction) > 0 {
		return fmt.Sprintf("KVM internal error: %s: % x", cause, e.Instruction)
	}
	return fmt.Sprintf("KVM internal error: %s, data %#x", cause, e.Data)
}

// Delivery reports whether KVM met an access that it would have had to emulate while the CPU
// delivered an event to the guest: an interrupt, an NMI or an exception.
func (e Exit) Delivery() bool {
	return e.Reason == ExitInternalError && union[uapi.RunInternal](e.vcpu).SubError == uapi.InternalErrorDeliveryEv
}

// FailEntry is the CPU refusing the guest's state.
type FailEntry struct {
	HardwareReason uint64 // the vendor's code
	CPU            uint32 // host CPU
}

// FailEntry returns the cause of an ExitFailEntry.
func (e Exit) FailEntry() FailEntry {
	fail := union[uapi.RunFailEntry](e.vcpu)
	return FailEntry{HardwareReason: fail.Reason, CPU: fail.CPU}
}

// HardwareReason returns the vendor's exit code of an ExitUnknown.
func (e Exit) HardwareReason() uint64 { return e.vcpu.run.Exit[0] }

// Debug is a debug exception that SetSingleStep asked for.
type Debug struct {
	Exception uint32 // vector
	PC        uint64 // linear address of the instruction
	DR6, DR7  uint64
}

// Debug returns the exception of an ExitDebug.
func (e Exit) Debug() Debug {
	debug := union[uapi.RunDebug](e.vcpu)
	return Debug{Exception: debug.Exception, PC: debug.PC, DR6: debug.DR6, DR7: debug.DR7}
}

// Hypercall is a call that KVM passes on.
type Hypercall struct {
	Number uint64
	Args   [6]uint64
	Ret    *uint64 // where the answer goes
}

// Hypercall returns the call of an ExitHypercall.
func (e Exit) Hypercall() Hypercall {
	call := union[uapi.RunHypercall](e.vcpu)
	return Hypercall{Number: call.Nr, Args: call.Args, Ret: &call.Ret}
}

// MSRAccess is an access to a model-specific register that KVM passes on.
type MSRAccess struct {
	Index uint32
	Data  *uint64 // what the guest wrote, or where the answer goes
	Fail  *uint8  // not 0 raises #GP in the guest
}

// MSR returns the access of an ExitRDMSR or ExitWRMSR.
func (e Exit) MSR() MSRAccess {
	msr := union[uapi.RunMSR](e.vcpu)
	return MSRAccess{Index: msr.Index, Data: &msr.Data, Fail: &msr.Error}
}

// String describes the exit in a few words, for messages and traces.
func (e Exit) String() string {
	switch e.Reason {
	case ExitIO:
		io := e.IO()
		return fmt.Sprintf("%s port %#x, %d × %d bytes", direction(io.Out), io.Port, io.Count, io.Size)
	case ExitMMIO:
		m := e.MMIO()
		return fmt.Sprintf("%s guest-physical %#x, %d bytes", direction(m.Write), m.Addr, len(m.Data))
	case ExitShutdown:
		return "shutdown (triple fault)"
	case ExitInternalError:
		return e.InternalError().String()
	case ExitFailEntry:
		return fmt.Sprintf("the CPU refuses the guest's state: hardware reason %#x", e.FailEntry().HardwareReason)
	case ExitUnknown:
		return fmt.Sprintf("unknown exit: hardware reason %#x", e.HardwareReason())
	case ExitSystemEvent:
		return fmt.Sprintf("system event %d", e.SystemEvent().Type)
	}
	return e.Reason.String()
}

// faultAddress says where the guest met the fault that ended KVM_RUN with an error, "" where KVM does
// not tell.
func (c *VCPU) faultAddress() string {
	if c.run.ExitReason != uapi.ExitMemoryFault {
		return "" // another error, or a kernel before 6.8
	}
	fault := union[uapi.RunMemoryFault](c)
	return fmt.Sprintf(": the host has no memory for guest-physical %#x, %d bytes", fault.GPA, fault.Size)
}

func direction(write bool) string {
	if write {
		return "write to"
	}
	return "read from"
}
