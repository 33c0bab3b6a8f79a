package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/say"
	"github.com/stile-vmm/stile/internal/testrun"
)

// testFlags say in which VM test binaries run. stile test hands them on to stile test-exec.
type testFlags struct {
	spec   guest.Spec
	memory sizeFlag
	where  guest.Anywhere
	env    []string
}

// add has no short flags, which pflag would see in -mod and others of go test's; testShorts are handled apart.
func (f *testFlags) add(fs *pflag.FlagSet) {
	fs.SetInterspersed(false) // the rest is for go test, or the test binary
	fs.SetNormalizeFunc(normalizeFlag)
	fs.SortFlags = false
	fs.StringVar(&f.spec.Kernel, "kernel", "", kernelUsage)
	fs.StringVar(&f.spec.Modules, "modules", "", modulesUsage)
	fs.StringArrayVar(&f.spec.Append, "append", nil, "`WORDS` to add to the kernel's command line; repeatable")
	fs.Var((*cpusFlag)(&f.spec.CPUs), "cpus", cpusUsage)
	fs.Var(&f.memory, "memory", "guest RAM, such as 512M or 2G")
	fs.DurationVar(&f.spec.BootTimeout, "boot-timeout", guest.DefaultBootTimeout, "end the VM if the guest is not ready after this `TIME`")
	fs.StringVar(&f.spec.OnOops, "on-oops", "", onOopsUsage)
	fs.StringArrayVar(&f.spec.Nets, "net", nil, netUsage)
	fs.BoolVar(&f.spec.HugePages, "hugepages", false, "take guest RAM from the host's pool of 2 MiB pages")
	fs.BoolVar(&f.spec.Balloon, "balloon", false, "let the guest give memory back that it has free")
	addFolderFlags(fs, &f.spec.Folders)
	addDiskFlag(fs, &f.spec.Disks)
	fs.StringArrayVar(&f.spec.Devices, "device", nil, deviceUsage)
	fs.StringArrayVar(&f.env, "env", nil, "`KEY=VALUE` for the test binary's environment, or KEY to carry it over, or * for all; repeatable")
	fs.StringVar(&f.where.On, "on", "auto", "`PLACE` to run: auto, host (this machine's KVM) or lab (a nested host under emulation)")
	fs.StringVar(&f.where.Lab.Topology, "topology", "", "the lab's devices: a `TOPOLOGY`, see stile lab (default: none; all with --device)")
	fs.StringVar(&f.where.Lab.Kernel, "lab-kernel", "", "the lab's `KERNEL`, see stile lab")
}

// arguments returns the flags that were set, for another stile. Paths are absolute: the go command runs each test
// binary in the folder of its package.
func (f *testFlags) arguments(fs *pflag.FlagSet) ([]string, error) {
	spec, err := f.spec.Absolute()
	if err != nil {
		return nil, err
	}
	f.spec = spec
	if strings.Contains(f.where.Lab.Topology, "/") {
		if f.where.Lab.Topology, err = filepath.Abs(f.where.Lab.Topology); err != nil {
			return nil, err
		}
	}
	var args []string
	fs.Visit(func(flag *pflag.Flag) {
		switch flag.Value.(type) {
		case folderFlag, diskFlag:
			return // below, in their order
		}
		values := []string{flag.Value.String()}
		if list, ok := flag.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		for _, value := range values {
			args = append(args, "--"+flag.Name+"="+value)
		}
	})
	for _, folder := range spec.Folders {
		args = append(args, "--"+string(folder.Mode)+"="+folder.String())
	}
	for _, d := range spec.Disks {
		args = append(args, "--disk="+guest.DiskText(d))
	}
	return args, nil
}

const testHelp = `Run go test, with each package's test binary in a VM of its own, as root of the guest.

It is go test -exec 'stile test-exec …': packages and flags are go test's. The binary sees
this host's files through a copy-on-write view and runs in its package's folder; t.TempDir
is in the guest's memory. Of the environment it gets what stile run carries over, and what
begins with GO, CGO_, STILE_ or TEST: tokens stay here. --env KEY carries another variable,
--env '*' all of them. Results, -v, -json, -run, -count,
-timeout, -race, -bench, coverage, profiles and -artifacts are as without a VM; -fuzz is
refused. Results are not cached: of tests that an -exec program runs, Go keeps none.

stile's own flags come first, as those of stile run: --memory 1G, -m 1G; what follows is go test's. (-c is go
test's where no number follows it.)`

func newTestCommand() *cobra.Command {
	f := &testFlags{memory: guest.DefaultMemory}
	c := &cobra.Command{
		Use:   "test [flags] [packages and flags of go test]",
		Short: "Run go test with the test binaries in VMs",
		Long:  testHelp,
		// pflag would take -mod for -m with a value.
		DisableFlagParsing: true,
		Example: `  stile test ./...
  stile test --memory 1G --cpus 2 -run TestMount -v ./storage
  stile test --device 0000:01:00.0,bind ./driver`,
	}
	f.add(c.Flags())
	c.ValidArgsFunction = func(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		if !strings.HasPrefix(word, "--") {
			return nil, cobra.ShellCompDirectiveDefault // packages and files
		}
		var flags []string
		c.Flags().VisitAll(func(f *pflag.Flag) { flags = append(flags, "--"+f.Name+"\t"+f.Usage) })
		return flags, cobra.ShellCompDirectiveNoFileComp
	}
	c.RunE = func(_ *cobra.Command, args []string) error {
		own, rest := splitTestArgs(c.Flags(), args)
		if len(rest) > 0 && (rest[0] == "--help" || rest[0] == "-h") {
			return c.Help()
		}
		if err := c.Flags().Parse(own); err != nil {
			return c.FlagErrorFunc()(c, err)
		}
		run := newRunCommand()
		if err := errors.Join(misspelt(c.Flags(), rest), misplaced(c.Flags(), run.Flags(), rest)); err != nil {
			return err
		}
		return f.test(c.Flags(), rest)
	}
	return c
}

func newTestExecCommand() *cobra.Command {
	f := &testFlags{memory: guest.DefaultMemory}
	c := &cobra.Command{
		Use:   "test-exec [flags] BINARY [ARG]...",
		Short: "Run a Go test binary in a VM, for go test -exec",
		Long: `Run a Go test binary in a VM, as root of the guest, in the current folder and with what
stile test says of the environment. What it writes for the go command comes back. See stile test.

Exit status: the binary's own, 128+n if a signal killed it, 122 if the guest died, 124 if
it did not boot in time, 125 if stile failed.`,
		Example: `  go test -exec 'stile test-exec' ./...
  go test -c -o x.test . && stile test-exec ./x.test -test.v`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return f.exec(args) },
	}
	f.add(c.Flags())
	return c
}

// validate reports every fault of stile's own flags.
func (f *testFlags) validate() error {
	f.spec.Memory = uint64(f.memory)
	faults := []error{f.spec.Validate(), f.spec.ValidateAgent(), guest.CheckPlace(f.where.On)}
	for _, e := range f.env {
		if strings.HasPrefix(e, "=") || e == "" {
			faults = append(faults, fmt.Errorf("--env %q: must be KEY=VALUE, KEY or *", e))
		}
	}
	return errors.Join(faults...)
}

// carries reports whether the test binary gets a variable of this process. The others may be tokens, and a guest that is tested is
// not to be trusted with them.
func (f *testFlags) carries(name string) bool {
	for _, prefix := range []string{"GO", "CGO_", "STILE_", "TEST"} { // what the go command and tests themselves read
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return guest.Carries(name) || slices.Contains(f.env, name) || slices.Contains(f.env, "*")
}

// settings returns the variables of --env that have a value.
func (f *testFlags) settings() []string {
	return slices.DeleteFunc(slices.Clone(f.env), func(e string) bool { return !strings.Contains(e, "=") })
}

// test becomes go test.
func (f *testFlags) test(fs *pflag.FlagSet, args []string) error {
	if err := f.validate(); err != nil { // once, and not for each package
		return err
	}
	own, err := f.arguments(fs)
	if err != nil {
		return err
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		return fmt.Errorf("stile test runs go test: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	words, err := quoteWords(append([]string{self, "test-exec"}, own...))
	if err != nil {
		return err
	}
	if i := slices.Index(args, "--"); i >= 0 {
		args = slices.Delete(args, i, i+1)
	}
	argv := append([]string{"go", "test", "-exec", words}, args...)
	return fmt.Errorf("run %s: %w", tool, unix.Exec(tool, argv, os.Environ()))
}

// quoteWords joins words so that the go command takes them apart again: it knows both quotes, and no escapes.
func quoteWords(words []string) (string, error) {
	quoted := make([]string, len(words))
	for i, w := range words {
		switch {
		case !strings.ContainsAny(w, " \t\r\n'\""):
			quoted[i] = w
		case !strings.Contains(w, "'"):
			quoted[i] = "'" + w + "'"
		case !strings.Contains(w, `"`):
			quoted[i] = `"` + w + `"`
		default:
			return "", fmt.Errorf("%s: the go command can't take both kinds of quotes in one word", w)
		}
	}
	return strings.Join(quoted, " "), nil
}

// exec runs a test binary and returns its exit status as an error.
func (f *testFlags) exec(args []string) error {
	if err := f.validate(); err != nil {
		return err
	}
	binary, err := filepath.Abs(args[0])
	if err != nil {
		return err
	}
	if _, err := exec.LookPath(binary); err != nil {
		return fmt.Errorf("test binary: %w", err)
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	f.where.Progress = say.Writer(os.Stderr)
	f.where.Notice = func(text string) { say.Line(os.Stderr, text) }
	status, err := testrun.InVM(f.spec, f.where, &testrun.Command{
		Path: binary, Args: args[1:], Dir: dir, Carries: f.carries, Env: f.settings(),
	})
	if lacking := (*guest.UnavailableError)(nil); errors.As(err, &lacking) {
		return fmt.Errorf("no VM can run here: %w; stile doctor tells more", err)
	}
	if err != nil {
		return err
	}
	if status != 0 {
		return exitError{status}
	}
	return nil
}
