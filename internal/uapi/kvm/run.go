package kvm

// Run is struct kvm_run, the page shared with the kernel. Exit is a union, see the
// Run… types for its members.
type Run struct {
	RequestInterruptWindow     uint8 // in
	ImmediateExit              uint8 // in
	_                          [6]uint8
	ExitReason                 uint32
	ReadyForInterruptInjection uint8
	IfFlag                     uint8
	Flags                      uint16
	CR8                        uint64
	APICBase                   uint64
	Exit                       [32]uint64
	ValidRegs                  uint64
	DirtyRegs                  uint64
	Sync                       [2048]uint8
}

// RunIO is member io. Offset is the data's, in bytes from the start of Run.
type RunIO struct {
	Direction uint8
	Size      uint8 // bytes
	Port      uint16
	Count     uint32
	Offset    uint64
}

// RunMMIO is member mmio.
type RunMMIO struct {
	Addr    uint64
	Data    [8]uint8
	Len     uint32
	IsWrite uint8
}

// RunFailEntry is member fail_entry.
type RunFailEntry struct {
	Reason uint64
	CPU    uint32
}

// RunDebug is member debug.
type RunDebug struct {
	Exception uint32
	_         uint32
	PC        uint64
	DR6       uint64
	DR7       uint64
}

// RunHypercall is member hypercall.
type RunHypercall struct {
	Nr       uint64
	Args     [6]uint64
	Ret      uint64
	LongMode uint32
	_        uint32
}

// RunInternal is member internal. NData counts the valid words of Data.
type RunInternal struct {
	SubError uint32
	NData    uint32
	Data     [16]uint64
}

// RunEmulationFailure is member emulation_failure.
type RunEmulationFailure struct {
	SubError uint32
	NData    uint32
	Flags    uint64
	Size     uint8 // of the instruction, bytes
	Bytes    [15]uint8
}

// RunSystemEvent is member system_event.
type RunSystemEvent struct {
	Type  uint32
	NData uint32
	Data  [16]uint64
}

// RunMSR is member msr.
type RunMSR struct {
	Error  uint8
	_      [7]uint8
	Reason uint32
	Index  uint32
	Data   uint64
}

// RunMemoryFault is member memory_fault (since Linux 6.8).
type RunMemoryFault struct {
	Flags uint64
	GPA   uint64
	Size  uint64 // bytes
}

// Values of Run.ExitReason.
const (
	ExitUnknown       = 0
	ExitException     = 1
	ExitIO            = 2
	ExitHypercall     = 3
	ExitDebug         = 4
	ExitHLT           = 5
	ExitMMIO          = 6
	ExitIRQWindowOpen = 7
	ExitShutdown      = 8
	ExitFailEntry     = 9
	ExitIntr          = 10
	ExitSetTPR        = 11
	ExitTPRAccess     = 12
	ExitNMI           = 16
	ExitInternalError = 17
	ExitWatchdog      = 21
	ExitSystemEvent   = 24
	ExitIOAPICEOI     = 26
	ExitHyperV        = 27
	ExitRDMSR         = 29
	ExitWRMSR         = 30
	ExitDirtyRingFull = 31
	ExitAPResetHold   = 32
	ExitBusLock       = 33
	ExitXen           = 34
	ExitNotify        = 37
	ExitMemoryFault   = 39 // with an error of KVM_RUN, unlike the others
)

// Values of RunIO.Direction.
const (
	IOIn  = 0
	IOOut = 1
)

// Values of RunInternal.SubError.
const (
	InternalErrorEmulation            = 1
	InternalErrorSimulEx              = 2
	InternalErrorDeliveryEv           = 3
	InternalErrorUnexpectedExitReason = 4
)

// EmulationInstructionBytes in RunEmulationFailure.Flags: Size and Bytes are valid.
const EmulationInstructionBytes = 1

// Values of RunSystemEvent.Type.
const (
	SystemEventShutdown = 1
	SystemEventReset    = 2
	SystemEventCrash    = 3
)
