package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/say"
	"github.com/stile-vmm/stile/internal/session"
	"github.com/stile-vmm/stile/vmm"
)

// runFlags is stile run's command line.
type runFlags struct {
	spec       guest.Spec
	memory     sizeFlag
	on         string
	lab        guest.LabSpec
	env        []string
	dir        string
	tty        bool
	timeout    time.Duration
	consoleLog string
	json       string
	dryRun     bool
	exitCodes  string
	user       string
	rng        bool
	args       []string

	ends context.Context // ended by what ends the run; nil before that is watched
}

const runHelp = `Boot a throwaway VM and run a command in it.

The command sees the host's files through a copy-on-write view: it can read what you
can read, and what it writes is gone when it ends. It runs as root of the guest, in the
current directory, with its own stdin, stdout and stderr. Without a command, a shell
runs on your terminal.

--ro, --rw and --cow share a folder of the host: read-only, with the guest's writes on
the host, or with writes that end with the guest. It is seen at the same path, or at
GUEST. Files of yours are root's in the guest, and what its root writes is yours.

With -i and no command, the kernel and the initramfs are booted as they are, with the
serial console on your terminal; the VM ends when the guest powers off or reboots. In
the lab a few words on the kernel's command line spare it time; yours come last.

With --on-reboot reset a guest that reboots is booted again, from the same files and
with the same devices, and its command is started anew: in its environment
STILE_REBOOTS says how often that was. Input that was sent to it is gone, and --timeout
counts on. A kernel panic and a triple fault end the VM nevertheless.

Exit status: the command's own; 128+n if signal n killed it; 126 if it is not
executable, 127 if it is not found in the guest; 124 if --timeout or --boot-timeout
expired, or the boot made no progress for a minute; 122 if the guest died (kernel panic,
oops, triple fault, a locked-up CPU, no memory left for the command, an agent that is lost or
does not answer for a minute); 125 if stile or the set-up failed. --keep-going leaves such
a guest as it is, until --timeout or a signal ends it.

--json says which without ambiguity: its reason is exit, signal, not-started, timeout,
boot-timeout, boot-stalled, died, out-of-memory, killed or setup, and guest.reason tells
panic, triple-fault, lockup, oops and hung apart; faults lists what the kernel has reported
of itself (oops, WARN, KASAN, lockdep, …), of which --on-oops says what ends the VM. It has the phases, the exits by reason
and by device, the guest's kernel, the VM's ID and the path of its log; docs/run.md tells all.

stile ps shows the VMs that run, stile ctl steers them, stile console and stile logs show
their consoles; --name gives a VM a name for that.

SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed to the command once; a second one ends
the VM at once. Ctrl-A x ends a VM whose console is on the terminal.`

const runExamples = `  stile run -- uname -a
  echo hi | stile run -- sh -c 'cat; exit 7'
  stile run -c 2 -m 1G -- make check
  stile run --root uroot -- ls /
  stile run -k 6.12 --net user,fwd=8080:80 -- ./server
  stile run --rw /src=. --disk data.img -- make -C /src
  stile run --device 0000:01:00.0,bind -- lspci
  stile run --name web --vsock auto --balloon -- ./server
  git bisect run stile run --exit-codes bisect -k . -- ./test.sh
  stile run -k vmlinuz -i initramfs.cpio -a 'foo=bar'`

func newRunCommand() *cobra.Command {
	f := new(runFlags)
	c := &cobra.Command{
		Use:     "run [flags] [--] [COMMAND [ARG]...]",
		Short:   "Boot a VM and run a command in it",
		Long:    runHelp,
		Example: runExamples,
		RunE: func(_ *cobra.Command, args []string) error {
			f.args = args
			return f.run()
		},
	}
	f.add(c.Flags())
	return c
}

func (f *runFlags) add(fs *pflag.FlagSet) {
	f.memory = guest.DefaultMemory
	fs.SetInterspersed(false) // the command's own flags are not ours
	fs.SetNormalizeFunc(normalizeFlag)
	fs.SortFlags = false
	fs.StringVarP(&f.spec.Kernel, "kernel", "k", "", kernelUsage)
	fs.StringArrayVarP(&f.spec.Initramfs, "initramfs", "i", nil, "initramfs `FILE` (cpio) to unpack in the guest; repeatable")
	fs.StringVar(&f.spec.Modules, "modules", "", modulesUsage)
	fs.StringArrayVarP(&f.spec.Append, "append", "a", nil, "`WORDS` to add to the kernel's command line; repeatable")
	fs.VarP((*cpusFlag)(&f.spec.CPUs), "cpus", "c", cpusUsage)
	fs.VarP(&f.memory, "memory", "m", "guest RAM, such as 512M or 2G")
	fs.BoolVar(&f.spec.HugePages, "hugepages", false, "take guest RAM from the host's pool of 2 MiB pages (default: transparent huge pages where the host makes some)")
	fs.StringVar(&f.spec.Root, "root", guest.RootHost, "the guest's `ROOT`: host, none, uroot, a folder, or a disk image whose changes are thrown away")
	addFolderFlags(fs, &f.spec.Folders)
	addDiskFlag(fs, &f.spec.Disks)
	fs.StringArrayVar(&f.spec.Nets, "net", nil, netUsage)
	fs.StringArrayVar(&f.env, "env", nil, "`KEY=VALUE` for the command's environment, or KEY to carry it over; repeatable")
	fs.StringVar(&f.user, "user", "", "run the command as this `USER` of the guest: NAME, UID or UID:GID (default: root)")
	fs.StringVar(&f.dir, "cwd", "", "working `FOLDER` in the guest (default: the current one with --root host; a relative one starts there)")
	fs.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal (default: only to a shell, when no command is given)")
	fs.DurationVar(&f.timeout, "timeout", 0, "end the VM if the command runs longer than this `TIME`, such as 60s (default: never)")
	fs.DurationVar(&f.spec.BootTimeout, "boot-timeout", guest.DefaultBootTimeout, "end the VM if the guest is not ready after this `TIME`")
	fs.StringVar(&f.spec.OnOops, "on-oops", "", onOopsUsage)
	fs.BoolVar(&f.spec.KeepGoing, "keep-going", false, "leave a guest that panics, hangs or does not come up as it is, for a debugger")
	fs.BoolVar(&f.rng, "rng", true, "give the guest a random number device (virtio-rng)")
	fs.BoolVar(&f.spec.PowerOff, "power-off", false, "power the guest off in order at its end, as one with devices or disks that it writes to is anyway")
	fs.StringVar(&f.spec.OnReboot, "on-reboot", string(vmm.RebootExit), "`ACTION` when the guest reboots: exit, or reset the VM and boot it again")
	fs.StringVar(&f.spec.Name, "name", "", "the VM's `ID` for stile ps, ctl, console and logs (default: one that is made up)")
	fs.StringVar(&f.consoleLog, "console-log", "", "write the kernel's console to `FILE`")
	fs.StringVar(&f.json, "json", "", "write how it ended, phases and exit counts to `FILE` (- for stderr), see docs/run.md")
	fs.StringVar(&f.exitCodes, "exit-codes", codesCommand, "`WHOSE` exit statuses: the command's, as above, or bisect's, for git bisect run: 0 good, 1 to 124 bad, 125 no kernel, 128 and more stile's failures")
	fs.Var(vsockFlag{&f.spec.Vsock}, "vsock", "a vsock device with context ID CID or auto; on this side are UNIX sockets, CID[,path=PATH], or the host's AF_VSOCK, CID,host")
	fs.BoolVar(&f.spec.Balloon, "balloon", false, "let the guest give memory back: what it has free, and what stile ctl ID balloon asks for")
	fs.StringArrayVar(&f.spec.Devices, "device", nil, deviceUsage)
	fs.StringVar(&f.spec.VFIO, "vfio", "", "VFIO's `INTERFACE` to use: legacy (groups) or iommufd (default: what there is)")
	fs.StringVar(&f.spec.OnUnplug, "on-unplug", string(vmm.Stop), "`ACTION` when the host wants a device back: stop the VM, or warn")
	fs.StringVar(&f.spec.OnDeviceError, "on-device-error", string(vmm.Stop), "`ACTION` when a device reports an error that its hardware could not correct: stop the VM, or warn")
	fs.BoolVar(&f.dryRun, "dry-run", false, "print what would be done with the devices, and change nothing")
	fs.StringVar(&f.on, "on", "auto", "`PLACE` to run: auto, host (this machine's KVM) or lab (a nested host under emulation)")
	fs.StringVar(&f.lab.Topology, "topology", "", "the lab's devices: a `TOPOLOGY`'s name or file, see stile lab (default: none; all with --device)")
	fs.StringVar(&f.lab.Kernel, "lab-kernel", "", "the lab's `KERNEL`, see stile lab")
	fs.BoolVarP(&f.spec.Verbose, "verbose", "v", false, "show the kernel's messages on stderr")
}

// apply brings into the spec what its flags are not bound to.
func (f *runFlags) apply() {
	f.spec.Memory, f.spec.NoRNG, f.spec.Command = uint64(f.memory), !f.rng, f.args
	f.spec.CountRAM, f.spec.Dir = f.json != "", f.dir
}

// consoleMode reports whether the kernel and the initramfs are booted as they are.
func (f *runFlags) consoleMode() bool { return len(f.spec.Initramfs) > 0 && len(f.args) == 0 }

func (f *runFlags) run() error {
	f.apply()
	if err := f.checkShorts(); err != nil {
		return f.fail(err)
	}
	if err := f.validate(); err != nil {
		return f.fail(err)
	}
	if err := f.findCommand(); err != nil {
		return f.finish(guest.Report{On: f.on, Reason: "not-started", Message: err.Error(), Status: exitNotFound}, err)
	}
	if !guest.Nested() { // where it was said outside
		warnOfInitrds(os.Stderr, f.spec.Initramfs)
	}
	place, notice, err := guest.Choose(f.on)
	if err != nil {
		return f.fail(err)
	}
	if notice != "" {
		say.Line(os.Stderr, notice)
	}
	if place == guest.InLab {
		return f.runInLab()
	}
	if f.dryRun {
		return f.printDevicePlan()
	}
	if f.consoleMode() {
		return f.runConsole()
	}
	return f.runCommand()
}

// warnOfInitrds warns of files that only a classic initial RAM disk's loader takes.
func warnOfInitrds(w io.Writer, paths []string) {
	for _, path := range paths {
		if images.ClassicInitrd(path) {
			fmt.Fprintf(w, "stile: warning: -i %s is not a cpio archive, compressed or not: Linux is about to lose its support for images of file systems "+
				"as initial RAM disk; pack the files with `find . | cpio -o -H newc`, or pass the image with --disk\n", path)
		}
	}
}

// validate reports every fault of the command line at once.
func (f *runFlags) validate() error {
	faults := []error{
		f.spec.Validate(), guest.CheckPlace(f.on),
		checkOutput("--console-log", f.consoleLog), checkOutput("--json", f.json),
	}
	faults = append(faults, checkExitCodes(f.exitCodes))
	if !f.consoleMode() {
		faults = append(faults, f.spec.ValidateAgent())
	}
	if f.timeout < 0 {
		faults = append(faults, fmt.Errorf("timeout of %v is negative", f.timeout))
	}
	for _, e := range f.env {
		if strings.HasPrefix(e, "=") || e == "" {
			faults = append(faults, fmt.Errorf("--env %q: must be KEY=VALUE or KEY", e))
		}
	}
	if len(f.args) > 0 && f.args[0] == "" {
		faults = append(faults, errors.New("the command is empty"))
	}
	if len(f.spec.Folders) > 0 && f.consoleMode() {
		faults = append(faults, errors.New("--ro, --rw and --cow need stile's agent in the guest: give a command"))
	}
	if f.tty && !term.IsTerminal(int(os.Stdin.Fd())) {
		faults = append(faults, errors.New("-t: standard input is not a terminal; without -t, the command gets pipes"))
	}
	_, userErr := f.account()
	_, dirErr := f.workDir()
	return errors.Join(append(faults, userErr, dirErr)...)
}

// fail reports err in --json, where asked for, and returns it.
func (f *runFlags) fail(err error) error {
	r := guest.Report{On: f.on, Reason: "setup", Message: err.Error(), Status: guest.ExitSetup}
	return f.finish(r, err)
}

// finish writes the report and turns it into the process's end.
func (f *runFlags) finish(r guest.Report, err error) error {
	var said strings.Builder
	if err != nil {
		if full := guest.ExplainFull(err); full != err {
			err, r.Message = full, full.Error()
		}
		r.Message = guest.Advice(r.Message)
		for _, line := range messages(err) {
			fmt.Fprintln(&said, "stile:", guest.Advice(line))
		}
		if log := guest.KernelLog(err); len(log) > 0 && !f.spec.Verbose {
			fmt.Fprintf(&said, "stile: the kernel log's end%s:\n%s\n", f.wholeLog(r, guest.LogIsWhole(err)), log)
		}
	}
	if f.exitCodes == codesBisect {
		r.Status = bisectStatus(r, err)
	}
	var unwritten error
	if f.json != "" {
		if unwritten = r.WriteJSON(f.json, &said); unwritten != nil {
			fmt.Fprintln(&said, "stile: write the report:", unwritten)
		}
	}
	f.sayLast(r, said.String())
	if unwritten != nil {
		return exitError{guest.ExitSetup}
	}
	if r.Status == 0 {
		return nil
	}
	return exitError{r.Status}
}

// sayLast prints the last words. A reader that stands still does not defeat what has ended the run: a time limit or a signal.
func (f *runFlags) sayLast(r guest.Report, text string) {
	ctx := f.ends
	if ctx == nil {
		ctx = context.Background()
	}
	if r.Status == guest.ExitTimeout || r.Reason == "killed" {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		ctx = ended
	}
	if text != "" {
		say.Until(ctx, os.Stderr, text)
	}
}

// wholeLog says where all of a kernel's log is. In the nested host, which keeps none, it is who chose the name that has it.
func (f *runFlags) wholeLog(r guest.Report, whole bool) string {
	switch {
	case !whole:
		return " (its beginning is lost, because the kernel was quiet: -v prints all)"
	case r.ID == "" || r.Log == "" && f.spec.Name == "":
		return ""
	}
	return fmt.Sprintf(" (stile logs %s has all of it)", r.ID)
}

// console opens what receives the kernel's console. The caller closes it.
func (f *runFlags) console() ([]io.Writer, func(), error) {
	var writers []io.Writer
	done := func() {}
	if f.consoleLog != "" {
		file, err := os.Create(f.consoleLog)
		if err != nil {
			return nil, nil, fmt.Errorf("console log: %w", err)
		}
		writers = append(writers, consoleFile{file})
		done = func() { file.Close() }
	}
	if f.spec.Verbose {
		writers = append(writers, say.Writer(os.Stderr))
	}
	return writers, done, nil
}

// consoleFile is a file that gets all of the kernel's log.
type consoleFile struct{ *os.File }

// TakesRecords implements guest.Recorder.
func (consoleFile) TakesRecords() {}

// runCommand boots a guest on this machine and runs the command in it.
func (f *runFlags) runCommand() error {
	console, closeConsole, err := f.console()
	if err != nil {
		return f.fail(err)
	}
	defer closeConsole()
	interrupts := watchSignals()
	defer interrupts.stop()
	f.ends = interrupts.boot()
	g, err := guest.Boot(interrupts.boot(), f.spec, console...)
	if err != nil {
		return f.bootFailed(interrupts, err)
	}
	defer interrupts.aroundStop(g.Hold)()
	outcome := f.execute(g, interrupts)
	var report guest.Report
	if outcome.killed {
		report, err = g.Kill()
	} else {
		report, err = g.CloseUntil(interrupts.boot())
	}
	report.Status, report.Reason = outcome.status, outcome.reason
	if fault := g.Fault(); fault != nil && outcome.reason != "killed" && outcome.reason != "died" {
		report.Status, report.Reason, outcome.err = guest.ExitStatus(fault), failure(fault), g.WithLog(fault)
	}
	if outcome.err == nil && outcome.status == statusKilled {
		if oom := g.OutOfMemory(); oom != nil {
			report.Status, report.Reason, outcome.err = guest.ExitStatus(oom), failure(oom), g.WithLog(oom)
		}
	}
	if hint := f.lackHint(report.Status); hint != "" && (report.Reason == "exit" || report.Reason == "not-started") {
		notice(hint)
	}
	if err = errors.Join(outcome.err, err); err != nil {
		report.Message = err.Error()
		if report.Status == 0 {
			report.Status, report.Reason = guest.ExitSetup, "setup"
		}
	}
	return f.finish(report, err)
}

func (f *runFlags) bootFailed(s *signals, err error) error {
	r := guest.ReportOf(err)
	r.On = "host"
	if status := s.status(); status != 0 {
		r.Status, r.Reason = status, "killed"
		return f.finish(r, nil)
	}
	r.Status, r.Reason, r.Message = guest.ExitStatus(err), failure(err), err.Error()
	return f.finish(r, err)
}

// failure names the reason why no command was run, or why its guest took it along, for --json.
func failure(err error) string {
	var ended *guest.EndedError
	var died *guest.DiedError
	switch {
	case errors.As(err, &ended):
		return "killed"
	case errors.As(err, &died) && (died.Result.Reason == vmm.Stalled || died.Result.Reason == vmm.OutOfMemory):
		return string(died.Result.Reason)
	}
	switch guest.ExitStatus(err) {
	case guest.ExitTimeout:
		return "boot-timeout"
	case guest.ExitDied:
		return "died"
	}
	return "setup"
}

// outcome is how the command ended.
type outcome struct {
	status int
	reason string
	err    error
	killed bool // the guest is not asked to power off
}

// errTimeout is the cause of a context that --timeout ended.
var errTimeout = errors.New("timeout")

// execute runs the command in g, anew after each reboot where that is asked for.
func (f *runFlags) execute(g *guest.Guest, s *signals) outcome {
	ctx, cancel := s.command(f.timeout)
	defer cancel()
	input := newSharedInput(standardInput())
	for reboots := 0; ; reboots++ {
		o := f.attempt(ctx, g, s, input, reboots)
		if !f.spec.Reboots() || !errors.Is(o.err, session.ErrAgentLost) {
			return o
		}
		s.expect()
		if err := g.AwaitReboot(ctx); err != nil {
			if ctx.Err() != nil {
				return f.stopped(ctx, g, s)
			}
			return lost(g, err)
		}
	}
}

// attempt runs the command once. The outcome's error is session.ErrAgentLost where the guest may
// boot again.
func (f *runFlags) attempt(ctx context.Context, g *guest.Guest, s *signals, input *sharedInput, reboots int) outcome {
	cmd, terminal, err := f.command(s)
	if err != nil {
		return outcome{guest.ExitSetup, "setup", err, true}
	}
	defer terminal.restore()
	if f.spec.Reboots() {
		stdin := input.reader()
		defer stdin.Close()
		cmd.Stdin, cmd.Env = stdin, append(cmd.Env, fmt.Sprintf("%s=%d", envReboots, reboots))
	}
	p, err := g.Session().Start(ctx, cmd)
	if err != nil {
		return f.startFailed(ctx, g, s, err)
	}
	defer s.forward(p)()
	defer terminal.watchSize(func(w agentproto.Winsize) { _ = p.Resize(w) })() // a command that has ended has no terminal
	status, err := p.Wait()
	if ended := g.Ended(); ended != nil {
		return outcome{guest.ExitStatus(ended), "killed", ended, true}
	}
	failed := streamFailed(status, err)
	switch {
	case ctx.Err() != nil:
		return f.stopped(ctx, g, s)
	case failed != nil:
		return *failed
	case err != nil:
		return f.lost(g, err)
	case status.ExitCode() == statusKilled && g.Left() != nil:
		return lost(g, g.Left())
	case status.Signal != 0:
		return outcome{status: status.ExitCode(), reason: "signal"}
	}
	return outcome{status: status.ExitCode(), reason: "exit"}
}

// statusKilled is that of a command that SIGKILL ended, or of a shell whose command it did.
const statusKilled = 128 + int(syscall.SIGKILL)

// envReboots tells a command how often its guest was booted again.
const envReboots = "STILE_REBOOTS"

// stopped says why ctx has ended the command.
func (f *runFlags) stopped(ctx context.Context, g *guest.Guest, s *signals) outcome {
	if errors.Is(context.Cause(ctx), errTimeout) {
		err := g.WithLog(fmt.Errorf("the command ran longer than %v and was killed", f.timeout))
		return outcome{guest.ExitTimeout, "timeout", err, true}
	}
	return outcome{s.status(), "killed", nil, true}
}
