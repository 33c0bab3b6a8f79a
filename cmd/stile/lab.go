package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/say"
	"github.com/stile-vmm/stile/lab"
)

// runInLab runs this very command line inside the nested host.
func (f *runFlags) runInLab() error {
	s := watchSignals()
	defer s.stop()
	report, err := f.inLab(s)
	if status := s.status(); status != 0 {
		report.Reason, report.Status, report.Message, err = "killed", status, "", nil
	}
	report.On = "lab"
	f.ends = s.boot()
	return f.finish(report, err)
}

// inLab resumes the nested host, runs the command line there and fetches what it wrote.
func (f *runFlags) inLab(s *signals) (guest.Report, error) {
	var known guest.Report
	failed := func(err error) (guest.Report, error) {
		known.Reason, known.Status, known.Message = failure(err), guest.ExitStatus(err), err.Error()
		return known, err
	}
	spec, err := f.spec.Absolute()
	if err != nil {
		return failed(err)
	}
	if len(spec.Devices) > 0 && f.lab.Topology == "" {
		f.lab.Topology = lab.AllTopology
	}
	dir, err := currentDir(f.startsHere())
	if err != nil {
		return failed(err)
	}
	ctx, kill := context.WithCancelCause(s.boot())
	defer kill(nil)
	control, err := guest.NewControl(spec, guest.InLab, kill)
	if err != nil {
		return failed(err)
	}
	defer control.Close()
	known = control.Report()
	host, err := guest.ResumeLab(ctx, spec, f.lab, say.Writer(os.Stderr))
	if ended := control.Ended(); ended != nil {
		err = ended
	}
	if err != nil {
		return failed(err)
	}
	defer host.Close()
	args, reportPath, logPath := f.labArgs(spec, control.ID())
	toCommand := make(signalChannel, 4)
	o := lab.Options{Args: args, Dir: dir, Stdin: standardInput(), Stdout: os.Stdout, Stderr: os.Stderr, Signals: toCommand, Linger: f.linger}
	restore, err := attachTerminal(&o, f.wantsTerminal(), s)
	if err != nil {
		return failed(err)
	}
	defer restore()
	defer s.forward(toCommand)()
	followed, err := control.Follow(host)
	if err != nil {
		return failed(err)
	}
	status, err := host.Run(ctx, &o)
	followed()
	if ended := control.Ended(); ended != nil && err != nil {
		err = ended
	}
	stream := streamFailed(status, err)
	if err != nil && stream == nil {
		return failed(err)
	}
	report, err := f.fetch(host, status.ExitCode(), reportPath, logPath)
	report.ID, report.Log = known.ID, known.Log
	if stream != nil {
		report.Status, report.Reason, report.Message = stream.status, stream.reason, stream.err.Error()
		return report, stream.err
	}
	return report, err
}

// linger says how long readers of the output may stand still when the nested stile has ended: a time limit that has struck waits
// for nobody.
func (f *runFlags) linger(status lab.Status) time.Duration {
	if f.timeout > 0 && status.ExitCode() == guest.ExitTimeout {
		return time.Second
	}
	return f.timeout
}

// signalChannel is a command's signals on their way to it.
type signalChannel chan syscall.Signal

func (c signalChannel) Signal(sig syscall.Signal) error {
	select {
	case c <- sig:
		return nil
	default:
		return errors.New("too many signals under way")
	}
}

// wantsTerminal reports whether the nested stile needs this terminal.
func (f *runFlags) wantsTerminal() bool {
	return f.tty || len(f.args) == 0 && isTerminal(os.Stdin)
}

// labFiles is where a nested stile writes what the user asked for; its file system is
// forgotten with the nested host.
const labFiles = "/run"

// labArgs returns the arguments of the nested stile, and where its report and console
// log go. They come from what was parsed, with paths made absolute.
func (f *runFlags) labArgs(spec guest.Spec, id string) (args []string, report, log string) {
	args = []string{
		"run", "--name", id, "--memory", fmt.Sprintf("%dK", spec.Memory>>10),
		"--root", spec.Root, "--boot-timeout", spec.BootTimeout.String(), "--timeout", f.timeout.String(),
	}
	if spec.CPUs > 0 {
		args = append(args, "--cpus", fmt.Sprint(spec.CPUs))
	}
	add := func(flag string, values ...string) {
		for _, v := range values {
			if v != "" {
				args = append(args, flag, v)
			}
		}
	}
	if f.json != "" || f.exitCodes == codesBisect {
		report = labFiles + "/stile-report.json"
	}
	if f.consoleLog != "" {
		log = labFiles + "/stile-console.log"
	}
	add("--json", report)
	add("--console-log", log)
	add("--kernel", spec.Kernel)
	add("--modules", spec.Modules)
	add("--initramfs", spec.Initramfs...)
	add("--append", spec.Append...)
	add("--env", f.environment()...)
	add("--user", f.user)
	add("--cwd", f.dir)
	add("--on-oops", spec.OnOops)
	add("--net", spec.Nets...)
	add("--device", spec.Devices...)
	add("--vfio", spec.VFIO)
	add("--on-unplug", spec.OnUnplug)
	add("--on-reboot", spec.OnReboot)
	add("--on-device-error", spec.OnDeviceError)
	for _, folder := range spec.Folders {
		add("--"+string(folder.Mode), folder.String())
	}
	for _, d := range spec.Disks {
		add("--disk", guest.DiskText(d))
	}
	if f.tty {
		args = append(args, "--tty")
	}
	if f.dryRun {
		args = append(args, "--dry-run")
	}
	if spec.Vsock != nil {
		args = append(args, "--vsock", fmt.Sprint(spec.Vsock.CID)) // its path is of this host
	}
	if spec.Balloon {
		args = append(args, "--balloon")
	}
	if spec.HugePages {
		args = append(args, "--hugepages")
	}
	if spec.NoRNG {
		args = append(args, "--rng=false")
	}
	if spec.KeepGoing {
		args = append(args, "--keep-going")
	}
	if spec.PowerOff {
		args = append(args, "--power-off")
	}
	if spec.Verbose {
		args = append(args, "--verbose")
	}
	return append(append(args, "--"), f.args...), report, log
}

// fetch gets the nested stile's report and console log.
func (f *runFlags) fetch(host *guest.LabHost, status int, reportPath, logPath string) (guest.Report, error) {
	var report guest.Report
	var errs []error
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if reportPath != "" {
		var text bytes.Buffer
		_, err := host.Session().PullSome(ctx, reportPath, &text, 64<<20)
		if err == nil {
			err = json.Unmarshal(text.Bytes(), &report)
		}
		errs = append(errs, err)
		report.Lab = host.Times()
	}
	if logPath != "" {
		errs = append(errs, f.fetchLog(ctx, host, logPath))
	}
	report.Status = status
	return report, errors.Join(errs...)
}

func (f *runFlags) fetchLog(ctx context.Context, host *guest.LabHost, path string) error {
	file, err := os.Create(f.consoleLog)
	if err != nil {
		return fmt.Errorf("console log: %w", err)
	}
	_, err = host.Session().Pull(ctx, path, file)
	return errors.Join(err, file.Close())
}
