package vmm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stile-vmm/stile/boot"
	"github.com/stile-vmm/stile/boot/acpi"
	"github.com/stile-vmm/stile/devices/bus"
	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/kreport"
	"github.com/stile-vmm/stile/internal/layout"
	"github.com/stile-vmm/stile/internal/spool"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
	"github.com/stile-vmm/stile/kvm"
)

// VM is one virtual machine: made by New, run once by Run, freed by Close.
type VM struct {
	cfg     Config
	vm      *kvm.VM
	mem     *guestmem.Memory
	slots   *slots
	cpus    []*cpu
	ports   bus.Bus
	memory  bus.Bus
	out     io.Writer // of console: never waits
	console *console
	devices *devices
	host    hostDevices

	ram    []layout.Range // where mem lies
	window layout.Range   // the 64-bit PCI window, behind ram

	stopping atomic.Bool // the VM ends
	// Of resets by the guest after which it boots again. The channel has room for the one that
	// sets the flag.
	resetting atomic.Bool
	resets    chan struct{}
	powerOn   powerOn

	leaving atomic.Pointer[Result] // why the guest was asked to power off
	stops   *stops                 // of this process
	ended   chan struct{}          // closed once result is set
	endOnce sync.Once
	result  Result

	started   time.Time      // when New began
	freeProcs func()         // gives back what procs has for this VM
	later     sync.WaitGroup // what goes on while the guest runs, and ends by itself

	mu        sync.Mutex
	phases    []Phase
	reboots   int
	resetTime time.Duration // of all of them
}

// New opens the host's devices, builds the machine and loads the kernel. ctx bounds only
// New itself. On an error nothing is left open.
func New(ctx context.Context, cfg Config) (*VM, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := cfg.checkHost(); err != nil {
		return nil, err
	}
	return twice(func() (*VM, error) { return newVM(ctx, cfg) })
}

// twice makes a VM anew, once, where KVM could not prepare the first one to run.
func twice(build func() (*VM, error)) (*VM, error) {
	v, err := build()
	if errors.Is(err, kvm.ErrFirstRun) {
		return build()
	}
	return v, err
}

func newVM(ctx context.Context, cfg Config) (*VM, error) {
	procs.reserve(cfg.cpus())
	v := &VM{cfg: cfg, ended: make(chan struct{}), resets: make(chan struct{}, 1), started: time.Now()}
	v.freeProcs = sync.OnceFunc(func() { procs.release(cfg.cpus()) })
	v.stops = newStops(v.ended)
	v.out = promptOutput(cfg.Console)
	v.console = newConsole(v.out, kreport.LinesTimed(cfg.Cmdline), v.trouble)
	v.console.excused = v.excuses
	if err := v.build(ctx); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

// build makes the parts in the order that costs least: memory slots before the
// interrupt controller, doorbells last (package kvm tells why). The kernel is read from
// its file meanwhile.
func (v *VM) build(ctx context.Context) error {
	system, err := kvm.Open()
	if err != nil {
		return err
	}
	defer system.Close()
	if err := system.RequireMachine(); err != nil {
		return err
	}
	if v.vm, err = system.CreateVM(); err != nil {
		return err
	}
	if err := v.place(system); err != nil {
		return err
	}
	loaded := make(chan error, 1)
	var entry boot.Entry
	go func() {
		var err error
		entry, err = v.load()
		loaded <- err
	}()
	machineErr := v.buildMachine(ctx, system)
	v.mark("machine")
	if err := errors.Join(<-loaded, machineErr); err != nil {
		return err
	}
	v.mark("kernel loaded")
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := v.savePowerOn(system); err != nil {
		return err
	}
	return enter(v.cpus[0].vcpu, entry)
}

// seedSize is how many random bytes the guest's generator starts with.
const seedSize = 32

// load puts the kernel, its initrds and the ACPI tables into guest RAM.
func (v *VM) load() (boot.Entry, error) {
	kernel, err := boot.Open(v.cfg.Kernel)
	if err != nil {
		return boot.Entry{}, err
	}
	defer kernel.Close()
	opts := boot.Options{Cmdline: v.cfg.Cmdline, RSDP: layout.ACPI, Seed: make([]byte, seedSize), Used: v.resetting.Load()}
	_, _ = rand.Read(opts.Seed) // it never fails
	for _, path := range v.cfg.Initrds {
		initrd, err := boot.OpenInitrd(path)
		if err != nil {
			return boot.Entry{}, err
		}
		defer initrd.Close()
		opts.Initrds = append(opts.Initrds, initrd)
	}
	entry, err := boot.Load(v.mem, kernel, opts)
	if err != nil {
		return boot.Entry{}, err
	}
	// The clock is there but not announced: KVM's is read without exits.
	tables, err := acpi.Build(layout.ACPI, acpi.Config{CPUs: v.cfg.cpus(), MMIO64: v.window, COM1: true, PVPanic: true})
	if err != nil {
		return boot.Entry{}, err
	}
	return entry, v.mem.Write(layout.ACPI, tables)
}

// mmio64Size is the size of the 64-bit PCI window without devices of the host, in bytes.
// Emulated devices need little of it; it stays below 2^36, which every CPU with hardware
// virtualisation can address.
const mmio64Size = 4 * layout.GiB

// place opens the host's devices, and makes RAM where they can reach it.
func (v *VM) place(system *kvm.System) error {
	if err := v.host.open(v); err != nil {
		return err
	}
	if len(v.cfg.Devices) > 0 {
		v.mark("devices attached")
	}
	var err error
	if v.ram, err = v.host.ram(v.cfg.Memory); err != nil {
		return err
	}
	total, largest := v.host.wide()
	v.window = mmio64(v.ram, total, largest)
	if err := v.checkWindow(system, total); err != nil {
		return err
	}
	v.mem, err = v.cfg.memory(v.ram)
	return err
}

// checkWindow reports 64-bit BARs that the CPU cannot address.
func (v *VM) checkWindow(system *kvm.System, total uint64) error {
	if total == 0 {
		return nil
	}
	entries, err := system.SupportedCPUID()
	if err != nil {
		return err
	}
	if width := kvm.PhysicalBits(entries); v.window.End() > 1<<width {
		return fmt.Errorf("%w: the devices' 64-bit BARs end at %#x, and the CPU addresses %d bits: %s; use a smaller --memory or fewer devices",
			ErrConfig, v.window.End(), width, v.host.describe())
	}
	return nil
}

func (v *VM) buildMachine(ctx context.Context, system *kvm.System) error {
	if err := v.vm.SetIdentityMapAddr(layout.IdentityMap); err != nil {
		return err
	}
	if err := v.vm.SetTSSAddr(layout.TSS); err != nil {
		return err
	}
	v.slots = newSlots(v.vm)
	if p := v.host.peers(v.notice); p != nil {
		v.slots.peers = p
	}
	if err := v.slots.addRAM(v.mem); err != nil {
		return err
	}
	if err := v.host.mapRAM(ctx, v, v.mem); err != nil {
		return err
	}
	// Devices before the interrupt controller, because config space is a memory slot;
	// they use no interrupts yet.
	var err error
	if v.devices, err = v.newDevices(); err != nil {
		return err
	}
	if err := v.vm.CreateIRQChip(); err != nil {
		return err
	}
	if err := v.vm.CreatePIT2(true); err != nil {
		return err
	}
	if kvm.UsesAVIC(os.DirFS("/sys")) {
		v.later.Go(v.vm.LoseTicks)
	}
	if err := v.devices.start(&v.host); err != nil {
		return err
	}
	if err := v.createCPUs(system); err != nil {
		return err
	}
	v.devices.root.Prepare()
	return nil
}

func (v *VM) createCPUs(system *kvm.System) error {
	n := v.cfg.cpus()
	if most := system.MaxVCPUs(); n > most {
		return fmt.Errorf("%w: %d CPUs are more than KVM's %d", ErrConfig, n, most)
	}
	supported, err := system.SupportedCPUID()
	if err != nil {
		return err
	}
	for id := range n {
		vcpu, err := v.vm.CreateVCPU(id)
		if err != nil {
			return err
		}
		v.cpus = append(v.cpus, v.newCPU(vcpu))
		v.setTSC(id, vcpu)
		entries := kvm.GuestCPUID(supported, kvm.CPUIDOptions{
			VCPU: id, VCPUs: n, TSCDeadline: system.Capability(uapi.CapTSCDeadlineTimer) > 0, HidePMU: v.vm.LacksPMU(),
		})
		if err := vcpu.SetCPUID(entries); err != nil {
			return err
		}
		if err := vcpu.SetMSRs(kvm.MSR{Index: msrMTRRDefType, Data: mtrrWriteBack}); err != nil {
			return err
		}
		vcpu.SetFirmwareMSRs(system, entries)
	}
	if v.vm.LacksPMU() {
		v.notice("the guest has no performance counters: perf events of this host, or its NMI watchdog, count in guests too (KVM's mediated PMU)")
	}
	return v.cpus[0].prepare()
}

// setTSC lets a vCPU's time-stamp counter run at the host's frequency. A KVM that refuses leaves it as
// it was made, which is the same on most hosts.
func (v *VM) setTSC(id int, c interface{ SetHostTSCKHz() error }) {
	if err := c.SetHostTSCKHz(); err != nil && id == 0 {
		v.notice(fmt.Sprintf("%v: the guest keeps KVM's; if its timers are late, reload KVM's module (kvm_intel or kvm_amd)", err))
	}
}

// Agent returns the host's end of the agent's port: what is written arrives in the
// guest once it opened the port. It is closed when Run returns.
func (v *VM) Agent() io.ReadWriteCloser { return v.devices.agent }

// halted reports whether vCPUs are to return.
func (v *VM) halted() bool { return v.stopping.Load() || v.resetting.Load() }

// ConsoleInput returns a writer to the guest's console, which is the last one on its command
// line. A write waits while the guest does not read, and fails when the VM is closed.
func (v *VM) ConsoleInput() io.Writer {
	at := strings.LastIndex(v.cfg.Cmdline, "console=")
	if v.devices.hvc != nil && at >= 0 && strings.HasPrefix(v.cfg.Cmdline[at:], "console=hvc") {
		return v.devices.hvc
	}
	return v.devices.board.UART.Input()
}

// PressPowerButton asks the guest to shut down, as ACPI's power button does. A guest without a program
// that watches the button ignores it.
func (v *VM) PressPowerButton() error { return v.devices.board.PM.PressPowerButton() }

// end records why the VM ends, unless that is known, and lets Run stop the vCPUs. A reset may
// be none of its ends.
func (v *VM) end(r Result) {
	if r.Reason == Reset && v.restart() {
		return
	}
	v.endOnce.Do(func() {
		r = v.told(r)
		if why := v.leaving.Load(); why != nil && r.Reason == PowerOff {
			r = *why
		}
		v.result = r
		v.stopping.Store(true) // the vCPU that ended it must not go on until it is kicked
		close(v.ended)
	})
}

// Done returns a channel that is closed when the VM has ended or begins to end.
func (v *VM) Done() <-chan struct{} { return v.ended }

// Run runs the guest until it ends or ctx does, and returns why. It is called once. The
// error is not nil only if the VM could not be run at all.
func (v *VM) Run(ctx context.Context) (Result, error) {
	stopWatch := context.AfterFunc(ctx, func() { v.end(Result{Reason: Canceled, Detail: context.Cause(ctx).Error()}) })
	defer stopWatch()
	v.mark("guest runs")
	v.stops.start()
	go v.watchStops()
	err := v.runCPUs()
	for err == nil && !v.stopping.Load() {
		if reset := v.reset(); reset != nil {
			v.end(Result{Reason: Failed, Detail: reset.Error()})
		}
		err = v.runCPUs()
	}
	v.mark("guest ended")
	v.describe()
	flushOutput(v.out)
	if v.devices.agent != nil {
		err = errors.Join(err, v.devices.agent.Close()) // who waits for the agent must not wait longer
	}
	result := v.result
	result.Reboots, _ = v.rebootStats()
	return result, err
}

// runCPUs runs the vCPUs until the VM ends, or the guest resets it.
func (v *VM) runCPUs() error {
	var running sync.WaitGroup
	for _, c := range v.cpus {
		running.Add(1)
		c.work <- func() {
			defer running.Done()
			c.run()
		}
	}
	select {
	case <-v.ended:
	case <-v.resets:
	}
	var errs []error
	for _, c := range v.cpus {
		errs = append(errs, c.vcpu.Kick())
	}
	running.Wait()
	return errors.Join(errs...)
}

// Close frees everything, in the order that package kvm asks for. Run must have
// returned or not been called. Further calls do nothing.
func (v *VM) Close() error {
	defer v.freeProcs()
	var errs []error
	for _, c := range v.cpus {
		errs = append(errs, c.close())
	}
	if v.vm != nil {
		v.vm.Retire()
	}
	if v.devices != nil {
		errs = append(errs, v.host.quiet(), v.devices.close())
		v.console.telling.Wait() // nothing is printed any more
	}
	if own, ok := v.out.(*spool.Spool); ok && v.cfg.Console != own {
		errs = append(errs, own.Close())
	}
	errs = append(errs, v.host.close())
	if v.vm != nil {
		v.later.Wait()
		errs = append(errs, v.vm.Close())
	}
	if v.mem != nil {
		errs = append(errs, v.freeMemory())
	}
	if v.devices != nil && v.devices.config != nil {
		errs = append(errs, v.devices.config.Close())
	}
	return errors.Join(errs...)
}

func (v *VM) mark(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.phases = append(v.phases, Phase{Name: name, At: time.Now()})
}

// Phases returns the points that the VM has reached, in order.
func (v *VM) Phases() []Phase {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]Phase(nil), v.phases...)
}

// rebootStats returns how often the guest has booted again, and what its resets took together.
func (v *VM) rebootStats() (n int, took time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.reboots, v.resetTime
}

// Stats returns what the VM has cost so far.
func (v *VM) Stats() Stats {
	reboots, resetTime := v.rebootStats()
	s := Stats{Exits: make(map[string]uint64), Devices: make(map[string]uint64), Reboots: reboots, ResetMS: milliseconds(resetTime), Stops: v.stops.count.Load(), IOCTLs: v.vm.Calls()}
	for _, c := range v.cpus {
		s.SpuriousErrors += c.delivery.repeats.Load()
		for reason := range c.exits {
			if n := c.exits[reason].Load(); n > 0 {
				s.Exits[kvm.Reason(reason).String()] += n
			}
		}
	}
	for _, b := range []*bus.Bus{&v.ports, &v.memory} {
		b.Accesses(func(name string, n uint64) {
			if n > 0 {
				s.Devices[name] += n
			}
		})
	}
	return s
}

// ResidentRAM returns how much of the guest's RAM is backed by host memory, in bytes. It
// is for reports: counting takes a moment.
func (v *VM) ResidentRAM() uint64 { return v.mem.Resident() }
