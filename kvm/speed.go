package kvm

import (
	"errors"
	"fmt"
	"time"

	"github.com/stile-vmm/stile/internal/sys"
)

// Speed is how this KVM runs guest kernel code.
type Speed struct {
	// Emulating is true where KVM interprets instructions instead of letting the CPU run
	// them: software KVM without virtualisation in the CPU. Such a KVM boots no Linux.
	Emulating bool
	// NanosPerInstruction is measured with a tight loop, rounded down: 0 or 1 on hardware,
	// some tens in a machine that is itself emulated. 0 if the probe met something it
	// could not interpret.
	NanosPerInstruction int
}

// slowNanos is where emulation is taken for granted, per instruction. Interpreters of
// instructions were measured at 600 to 800 ns, nested KVM under QEMU's TCG at 20 to 50.
const slowNanos = 200

// RunsLinux reports whether Linux boots under it in a useful time.
func (s Speed) RunsLinux() bool { return !s.Emulating }

func (s Speed) String() string {
	switch {
	case s.Emulating && s.NanosPerInstruction == 0:
		return "emulates instructions, and not all of them"
	case s.Emulating:
		return fmt.Sprintf("emulates instructions, %d ns each", s.NanosPerInstruction)
	case s.NanosPerInstruction > 5:
		return fmt.Sprintf("runs guests at %d ns per instruction: a nested machine", s.NanosPerInstruction)
	}
	return "runs guests on the CPU"
}

const (
	probeCode  = 0x1000
	probeLoops = 20000
	probeRuns  = 3
	// probeLimit ends a probe that hangs; the slowest interpreter met needs a hundredth.
	probeLimit = 2 * time.Second
)

// MeasureSpeed runs a VM of a few instructions and tells how this KVM executes them. It
// takes 1 to 30 ms. It asks the CPU, because names (CPUID's, the module's) do not tell.
func (s *System) MeasureSpeed() (Speed, error) {
	speed, err := s.probe()
	if errors.Is(err, ErrFirstRun) {
		speed, err = s.probe()
	}
	if err != nil {
		return Speed{}, fmt.Errorf("measure the speed of KVM: %w", err)
	}
	return speed, nil
}

func (s *System) probe() (Speed, error) {
	ram, err := sys.MapAnonymous(longModeRAM)
	if err != nil {
		return Speed{}, err
	}
	defer ram.Close()
	vm, err := s.CreateVM()
	if err != nil {
		return Speed{}, err
	}
	defer vm.Close()
	if err := vm.SetMemorySlot(MemorySlot{Size: longModeRAM, Host: ram.Addr()}); err != nil {
		return Speed{}, err
	}
	c, err := vm.CreateVCPU(0)
	if err != nil {
		return Speed{}, err
	}
	defer c.Close()
	c.Bind()
	defer c.Unbind()
	supported, err := s.SupportedCPUID()
	if err != nil {
		return Speed{}, err
	}
	if err := c.SetCPUID(GuestCPUID(supported, CPUIDOptions{})); err != nil {
		return Speed{}, err
	}
	sregs, err := c.Sregs()
	if err != nil {
		return Speed{}, err
	}
	enterLongMode(sregs, ram.Bytes())
	if err := c.SetSregs(sregs); err != nil {
		return Speed{}, err
	}
	return c.probe(ram.Bytes())
}

func (c *VCPU) probe(ram []byte) (Speed, error) {
	// LSL reads a segment's limit. Interpreters have had no reason to learn it, and it is
	// fine for every CPU, whatever the GDT.
	unusual := []byte{
		0xb8, 0x10, 0x00, 0x00, 0x00, // mov eax, 0x10
		0x0f, 0x03, 0xc8, // lsl ecx, ax
		0xf4, // hlt
	}
	exit, _, err := c.probeRun(ram, unusual)
	if err != nil {
		return Speed{}, err
	}
	if exit.Reason == ExitInternalError {
		return Speed{Emulating: true}, nil
	}
	if exit.Reason != ExitHLT {
		return Speed{}, fmt.Errorf("exit %v, want hlt", exit)
	}
	loop := []byte{
		0xb9, byte(probeLoops & 0xff), byte(probeLoops >> 8), 0x00, 0x00, // mov ecx, probeLoops
		0xff, 0xc9, // dec ecx
		0x75, 0xfc, // jnz to dec
		0xf4, // hlt
	}
	best := time.Duration(1<<63 - 1)
	for range probeRuns {
		exit, took, err := c.probeRun(ram, loop)
		if err != nil {
			return Speed{}, err
		}
		if exit.Reason != ExitHLT {
			return Speed{}, fmt.Errorf("exit %v, want hlt", exit)
		}
		best = min(best, took)
	}
	nanos := int(best.Nanoseconds() / (2 * probeLoops))
	return Speed{Emulating: nanos > slowNanos, NanosPerInstruction: nanos}, nil
}

func (c *VCPU) probeRun(ram, code []byte) (Exit, time.Duration, error) {
	copy(ram[probeCode:], code)
	if err := c.SetRegs(&Regs{RIP: probeCode, RFLAGS: rflagsReserved}); err != nil {
		return Exit{}, 0, err
	}
	limit := time.AfterFunc(probeLimit, func() { c.Kick() })
	defer limit.Stop()
	start := time.Now()
	exit, err := c.Run()
	return exit, time.Since(start), err
}
