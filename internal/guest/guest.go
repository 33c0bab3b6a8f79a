package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/session"
	"github.com/stile-vmm/stile/vmm"
)

// rootTag is the 9P tag of the guest's root.
const rootTag = "stile.root"

// Guest is a running VM whose agent is connected and set up. Its methods may be called
// concurrently.
type Guest struct {
	spec     Spec
	made     Images
	vm       *vmm.VM
	session  atomic.Pointer[session.Session] // nil until the agent has said hello
	claim    *Claim
	control  *Control
	running  context.Context // ends with cancel
	cancel   context.CancelFunc
	ready    atomic.Bool   // the agent is connected and set up
	leaving  atomic.Bool   // the VM ends, and has the guest power off
	rebooted chan struct{} // has room for one: the guest has reset itself, see AwaitReboot
	ran      chan struct{} // closed when the VM has ended and result is set
	result   vmm.Result
	runErr   error
	marks    []vmm.Phase
	log      puller
}

// machine returns the VM that boots s: images are found, built or downloaded as needed.
// console receives the kernel's console.
func machine(ctx context.Context, s Spec, console io.Writer) (vmm.Config, Images, error) {
	s = s.withDefaults()
	cfg := vmm.Config{
		CPUs: s.CPUs, Memory: s.Memory, Cmdline: s.cmdline(), AgentPort: true, NoRNG: s.NoRNG, Console: console,
		HugePages: s.hugePages(), OnReport: s.onReport(), KeepGoing: s.KeepGoing,
		Disks: s.disks(), Balloon: s.Balloon, Notice: notice,
		OnReboot: vmm.RebootPolicy(s.OnReboot),
	}
	made, err := findImages(ctx, s)
	if err != nil {
		return cfg, made, err
	}
	if cfg.Nets, err = s.cards(); err != nil {
		return cfg, made, err
	}
	cfg.Kernel = made.Kernel
	// The agent's archive comes last, so that its /init is the one that stays.
	cfg.Initrds = append(append(cfg.Initrds, s.Initramfs...), made.Initramfs)
	switch {
	case s.Root == RootHost:
		cfg.Shares = []vmm.Share{{Tag: rootTag, Path: "/", ReadOnly: true}}
	case s.rootIsFolder():
		cfg.Shares = []vmm.Share{{Tag: rootTag, Path: s.Root, ReadOnly: true}}
	}
	folders, err := s.folderShares()
	cfg.Shares = append(cfg.Shares, folders...)
	made.shareModules(s, &cfg)
	return cfg, made, err
}

// Boot boots s and returns when its agent is ready for commands. consoles also receive
// the kernel's console, those that are not nil. ctx bounds the boot only.
func Boot(ctx context.Context, s Spec, consoles ...io.Writer) (*Guest, error) {
	s = s.withDefaults()
	ctx, kill := context.WithCancelCause(ctx)
	defer kill(nil)
	if err := s.noteWritten(); err != nil {
		return nil, err
	}
	g := &Guest{spec: s, rebooted: make(chan struct{}, 1), ran: make(chan struct{})}
	var err error
	if g.claim, err = CheckDevices(s); err != nil {
		return nil, err
	}
	if len(s.Devices) > 0 {
		g.mark("devices checked")
	}
	if g.control, err = NewControl(s, OnHost, kill); err != nil {
		return nil, err
	}
	report, err := g.boot(ctx, s, g.control.Console(consoles...))
	if err != nil {
		if ended := g.control.Ended(); ended != nil {
			err = ended
		}
		log := g.KernelLog()
		return nil, &bootError{errors.Join(err, g.control.Close()), log, report, g.control.opening.whole}
	}
	return g, nil
}

// boot makes the VM and connects to its agent. On an error all but the control socket is closed, and the report is what is
// known of the run.
func (g *Guest) boot(ctx context.Context, s Spec, console io.Writer) (Report, error) {
	report := g.control.Report()
	cfg, made, err := machine(ctx, s, console)
	if err != nil {
		return report, err
	}
	g.made = made
	g.mark("images")
	if err := g.claim.Take(); err != nil {
		return report, err
	}
	if len(s.Devices) > 0 {
		g.mark("devices bound")
	}
	g.claim.Apply(&cfg)
	cfg.Vsock = g.control.Vsock()
	cfg.PowerOff, cfg.Rebooting, cfg.Rebooted = g.leave, g.rebooting, g.rebootDone
	if g.vm, err = vmm.New(ctx, cfg); err != nil {
		return report, errors.Join(err, g.claim.Release())
	}
	run, cancel := context.WithCancel(context.Background())
	g.running, g.cancel = run, cancel
	g.control.start(&guestTarget{machineTarget{vm: g.vm, disks: s.disks(), kill: cancel, typed: g.vm.ConsoleInput()}, g})
	go func() {
		defer close(g.ran)
		g.result, g.runErr = g.vm.Run(run)
		g.result.Detail = withSymbols(made.Symbols, g.result.Detail)
	}()
	records := g.control.recorder()
	g.log.record = func(line []byte) { _, _ = records.Write(g.vm.KernelRecord(line)) }
	if err := g.connect(ctx); err != nil {
		g.stop()
		report = g.report()
		return report, errors.Join(err, g.vm.Close(), g.claim.Release())
	}
	g.control.running(g.Session().Hello().Kernel)
	return report, nil
}

// tailLines is how many lines of the kernel's log a message about a dead guest has.
const tailLines = 24

// bootError carries the kernel log's end and what is known of the run along with the reason.
type bootError struct {
	err    error
	log    []byte
	report Report
	whole  func() bool // reports whether the log begins with the kernel's first line
}

func (e *bootError) Error() string { return e.err.Error() }
func (e *bootError) Unwrap() error { return e.err }

// KernelLog returns the end of the kernel's log that err carries, if any.
func KernelLog(err error) []byte {
	var b *bootError
	if errors.As(err, &b) {
		return b.log
	}
	return nil
}

// LogIsWhole reports whether the log of the guest that err is about begins with its kernel's first line. A quiet kernel that did not live
// to be asked for its ring buffer has told less.
func LogIsWhole(err error) bool {
	var b *bootError
	return errors.As(err, &b) && b.whole()
}

// ReportOf returns what is known of the run of a guest that did not come up, from the error that says so. Status, reason and message
// are left to the caller.
func ReportOf(err error) Report {
	var b *bootError
	if errors.As(err, &b) {
		return b.report
	}
	return Report{}
}

// LogPath returns the path of the kernel's whole log, if err carries it.
func LogPath(err error) string { return ReportOf(err).Log }

// connect waits for the agent of a guest that boots, and sets the guest up.
func (g *Guest) connect(ctx context.Context) error {
	ctx, cancel := g.spec.bootContext(ctx)
	defer cancel()
	if !g.spec.KeepGoing {
		go g.watchBoot(ctx)
	}
	// A VM that ends must end the wait for its agent.
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	go func() {
		select {
		case <-g.ran:
			lost(g.gaveUp())
		case <-ctx.Done():
		}
	}()
	s, err := session.Dial(ctx, g.vm.Agent())
	if err == nil {
		g.session.Store(s)
		g.mark("agent")
		g.spec.noticeCPUs(s.Hello())
		err = s.Setup(ctx, setup(g.spec, g.made))
	}
	if err == nil {
		g.mark(markReady)
		g.ready.Store(true)
		g.log.follow(s)
		if !g.spec.KeepGoing {
			go g.watch(g.running, s)
		}
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && cause != context.Canceled {
		return cause
	}
	if errors.Is(err, session.ErrAgentLost) {
		return g.died(err)
	}
	return err
}

// diedGrace is how long to wait for a VM's end once its agent is lost: the agent powers
// the machine off when it fails, and a panic takes a moment to be printed.
const diedGrace = 10 * time.Second

// died returns why the agent was lost.
func (g *Guest) died(err error) error {
	select {
	case <-g.ran:
		if ended := g.control.Ended(); ended != nil {
			return ended
		}
		return g.gaveUp()
	case <-time.After(diedGrace):
		return fmt.Errorf("%w, %w%s", err, errRunsOn, lostAdvice)
	}
}

// errRunsOn is in the error of an agent that was lost for no reason to be found.
var errRunsOn = errors.New("but its machine runs on")

// lostAdvice says what ends an agent and not its machine.
const lostAdvice = "; after kexec, or when the driver of its device is unbound, there is no agent any more: boot another kernel by -k, " +
	"or by -i without a command"

// quietLevel is the console's level once the guest is up: warnings, and all that is worse.
const quietLevel = 5

func setup(s Spec, made Images) *agentproto.Setup {
	out := &agentproto.Setup{Hostname: "stile", UnixNano: time.Now().UnixNano(), Env: environment(s)}
	if s.rootIsImage() {
		out.Root = agentproto.Mount{Kind: agentproto.MountBlock, Source: rootDevice}
	}
	if s.Root == RootHost || s.rootIsFolder() {
		out.Root = agentproto.Mount{Kind: agentproto.Mount9P, Source: rootTag, Overlay: true}
	}
	if s.Root == RootHost {
		out.Keep = keptPaths(s.Dir, made.Modules)
	}
	out.Mounts = s.folderMounts()
	if s.Scratch != "" {
		out.Mounts = append(out.Mounts, agentproto.Mount{Kind: agentproto.MountTmpfs, Target: s.Scratch, Options: "mode=1777"})
	}
	if !s.Verbose {
		out.ConsoleLevel = quietLevel
	}
	made.mountModules(s, out)
	s.setupNets(out)
	return out
}

// carried are the variables of this process that commands in a view of the host's root get.
var carried = []string{"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "COLORTERM", "NO_COLOR"}

// Carries reports whether commands in a view of the host's root get a variable of this process.
func Carries(name string) bool { return name == "TERM" || slices.Contains(carried, name) }

func environment(s Spec) []string {
	env := []string{"TERM=" + os.Getenv("TERM")}
	switch s.Root {
	case RootHost:
		for _, name := range carried {
			if value, ok := os.LookupEnv(name); ok {
				env = append(env, name+"="+value)
			}
		}
	case RootURoot:
		env = append(env, "PATH=/bbin:/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/root", "USER=root")
	default:
		env = append(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root")
	}
	return env
}

// Session returns the connection to the agent, of the guest's present boot.
func (g *Guest) Session() *session.Session { return g.session.Load() }

// Hold stops the guest until the returned function is called; see vmm.VM.Hold.
func (g *Guest) Hold() (release func()) { return g.vm.Hold() }

// Done returns a channel that is closed when the VM has ended.
func (g *Guest) Done() <-chan struct{} { return g.ran }

// KernelLog returns the last lines of the kernel's log.
func (g *Guest) KernelLog() []byte { return g.control.console.Lines(tailLines) }

// Ended returns why the guest ends if that was asked for through its control socket, else nil.
func (g *Guest) Ended() error { return g.control.Ended() }

// WaitError turns an error of a command's Wait into the reason why the guest ended, if
// the agent was lost.
func (g *Guest) WaitError(err error) error {
	if !errors.Is(err, session.ErrAgentLost) || errors.Is(err, errRunsOn) {
		return err
	}
	return g.died(err)
}

// leave has the guest power off because the VM has to end.
func (g *Guest) leave() {
	g.leaving.Store(true)
	_ = g.powerOff(context.Background()) // one that stays on is stopped
}

// Left returns why the VM has ended if the guest was made to power off, which kills commands and may
// tell of that first; else nil.
func (g *Guest) Left() error {
	if !g.leaving.Load() {
		return nil
	}
	<-g.ran
	return &DiedError{g.result}
}

// OutOfMemory returns an error if the guest's kernel has killed a process because there was no memory left. It is to be asked once
// the VM has ended.
func (g *Guest) OutOfMemory() error {
	said, ok := g.vm.Said(vmm.OutOfMemory)
	if !ok {
		return nil
	}
	return &DiedError{said}
}

// Close powers the guest off in order where it must be, or stops it, and frees the VM. An error says what was lost where the guest did
// not power off.
func (g *Guest) Close() (Report, error) { return g.CloseUntil(context.Background()) }

// CloseUntil is Close, and stops a guest that powers off when ctx ends.
func (g *Guest) CloseUntil(ctx context.Context) (Report, error) {
	var lost error
	if g.spec.keeps() {
		lost = g.spec.lost(g.powerOff(ctx))
	}
	r, err := g.Kill()
	return r, errors.Join(lost, err)
}

// powerOff asks the agent to power the guest off, and returns when it has, or when it does not.
func (g *Guest) powerOff(ctx context.Context) error {
	if !g.ready.Load() {
		return nil
	}
	return powerOff(ctx, g.Session(), g.ran, g.spec.grace())
}

// Fault returns an error if the guest's kernel has reported a fault that ends the guest, whatever else has ended it before. It is to be
// asked once the VM has ended.
func (g *Guest) Fault() error {
	if !g.result.Reported() {
		return nil
	}
	return &DiedError{g.result}
}

// Kill stops the guest at once and frees the VM.
func (g *Guest) Kill() (Report, error) {
	g.stop()
	r := g.report()
	return r, errors.Join(g.runErr, g.vm.Close(), g.claim.Release(), g.control.Close())
}

// stop ends the VM's run and the session.
func (g *Guest) stop() {
	if s := g.Session(); s != nil {
		g.log.drain(s)
	}
	g.vm.AwaitReport()
	g.cancel()
	<-g.ran
	if s := g.Session(); s != nil {
		s.Close()
	}
}

// markReady is the last mark of a boot; those of later boots are not kept.
const markReady = "ready"

func (g *Guest) mark(name string) {
	if n := len(g.marks); n > 0 && g.marks[n-1].Name == markReady {
		return
	}
	g.marks = append(g.marks, vmm.Phase{Name: name, At: time.Now()})
}

// WithLog adds the kernel log's end to err, for KernelLog.
func (g *Guest) WithLog(err error) error { return g.control.withLog(err) }

// ConsoleMachine returns the VM that boots the kernel and the initramfs of s as they are,
// with the serial line as console.
func ConsoleMachine(ctx context.Context, s Spec, console io.Writer, input io.Reader) (vmm.Config, error) {
	s = s.withDefaults()
	made, err := findImages(ctx, s)
	cmdline := s.consoleCmdline()
	nets, netErr := s.cards()
	return vmm.Config{
		Kernel: made.Kernel, Initrds: s.Initramfs, Cmdline: cmdline, CPUs: s.CPUs, Memory: s.Memory,
		// The serial line is the console, unless somebody asks for virtio's.
		NoConsole: !strings.Contains(cmdline, "hvc"), NoRNG: s.NoRNG,
		Console: console, Input: input, HugePages: s.hugePages(), Disks: s.disks(), Notice: notice,
		Balloon: s.Balloon, OnReboot: vmm.RebootPolicy(s.OnReboot), Nets: nets, OnReport: s.onReport(), KeepGoing: s.KeepGoing,
	}, errors.Join(err, netErr)
}
