package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/stile-vmm/stile/internal/guest"
)

// TestLabGetsEveryFlag sets all flags of stile run, and looks for them in what the nested stile is called with.
func TestLabGetsEveryFlag(t *testing.T) {
	dir := t.TempDir()
	values := map[string]string{
		"kernel": "host", "modules": dir, "initramfs": dir, "append": "quiet", "cpus": "2", "memory": "1G", "root": "none",
		"ro": dir, "rw": "/a=" + dir, "cow": "/b=" + dir, "disk": filepath.Join(dir, "d") + ",cow", "net": "user", "env": "A=b",
		"user": "1:2", "cwd": "/", "timeout": "1m0s", "boot-timeout": "2m0s", "on-oops": "stop", "on-reboot": "reset", "name": "web",
		"console-log": "log", "json": "report", "vsock": "7", "device": "01:00.0,bind", "vfio": "legacy", "on-unplug": "warn",
		"on-device-error": "warn", "tty": "true", "keep-going": "true", "rng": "false", "power-off": "true", "balloon": "true", "hugepages": "true",
		"dry-run": "true", "verbose": "true",
	}
	// Where the nested host is, and how it is made, is not its own affair, nor what becomes of its exit status.
	outside := []string{"on", "topology", "lab-kernel", "exit-codes", "help"}
	f := &runFlags{}
	fs := flagSet(f)
	fs.VisitAll(func(flag *pflag.Flag) {
		if slices.Contains(outside, flag.Name) {
			return
		}
		value, ok := values[flag.Name]
		if !ok {
			t.Errorf("--%s: this test has no value for it: does labArgs pass it on?", flag.Name)
			return
		}
		if err := fs.Set(flag.Name, value); err != nil {
			t.Errorf("--%s: %v", flag.Name, err)
		}
	})
	f.args = []string{"cat", "--help"}
	f.apply()
	spec, err := f.spec.Absolute()
	if err != nil {
		t.Fatal(err)
	}
	args, report, log := f.labArgs(spec, "web")
	nested := &runFlags{}
	parsed := flagSet(nested)
	if err := parsed.Parse(args[1:]); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	values["console-log"], values["json"] = log, report // fetched from there
	for name, want := range values {
		flag := parsed.Lookup(name)
		if flag == nil || !flag.Changed {
			t.Errorf("--%s is not passed on", name)
		} else if got := flag.Value.String(); got != "" && strings.Trim(got, `["]`) != want && name != "ro" && name != "rw" && name != "cow" {
			t.Errorf("--%s %s is passed on as %s", name, want, got)
		}
	}
	nested.args = parsed.Args()
	nested.apply()
	if len(nested.spec.Folders) != 3 || len(nested.spec.Disks) != 1 || nested.spec.Vsock.CID != 7 || !slices.Equal(nested.args, f.args) {
		t.Errorf("the nested stile gets %+v", nested.spec)
	}
	if nested.spec.Memory != 1<<30 || nested.spec.BootTimeout == guest.DefaultBootTimeout {
		t.Errorf("the nested stile gets %+v", nested.spec)
	}
}

func flagSet(f *runFlags) *pflag.FlagSet {
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	f.add(fs)
	return fs
}

func TestCheckOutput(t *testing.T) {
	dir := t.TempDir()
	for path, ok := range map[string]bool{"": true, "-": true, "x": true, dir: false, dir + "/x": true, dir + "/no/x": false} {
		if err := checkOutput("--json", path); (err == nil) != ok {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// silent wraps an error and says no more.
type silent struct{ error }

func (s silent) Unwrap() error { return s.error }

func TestMessages(t *testing.T) {
	a, b := errors.New("a"), errors.New("b")
	for _, test := range []struct {
		err  error
		want []string
	}{
		{a, []string{"a"}},
		{errors.Join(a, errors.Join(b, nil)), []string{"a", "b"}},
		{silent{errors.Join(a, b)}, []string{"a", "b"}},
		{fmt.Errorf("neither %w nor %w", a, b), []string{"neither a nor b"}},
		{errors.Join(fmt.Errorf("x: %w", a), b), []string{"x: a", "b"}},
	} {
		if got := messages(test.err); !slices.Equal(got, test.want) {
			t.Errorf("%q: %q, want %q", test.err, got, test.want)
		}
	}
}
