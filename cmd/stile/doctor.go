package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/images/kbuild"
	"github.com/stile-vmm/stile/internal/child"
	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/hostmem"
	"github.com/stile-vmm/stile/kvm"
	"github.com/stile-vmm/stile/lab"
	"github.com/stile-vmm/stile/vmm"
)

// state is how well something is.
type state string

const (
	good    state = "ok"
	limited state = "limited" // works, or is not needed here
	missing state = "missing" // stile run does not work without it
)

// paint colours text for a terminal: green, yellow or red. NO_COLOR in the environment asks for none.
func (s state) paint(text string) string {
	if !isTerminal(os.Stdout) || os.Getenv("NO_COLOR") != "" {
		return text
	}
	colour := map[state]int{good: 32, limited: 33, missing: 31}[s]
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", colour, text)
}

// finding is one thing that doctor looked at.
type finding struct {
	Name   string `json:"name"`
	State  state  `json:"state"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
	// Package is the Debian package that ends the lack.
	Package string `json:"package,omitempty"`
}

func newDoctorCommand() *cobra.Command {
	var asJSON, onlyMissing, toBuild bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Tell what this host can do, and the remedy for each lack",
		Long: `doctor looks at everything stile run depends on and says what works, what is limited
and what is missing, each lack with its remedy. It changes nothing. The exit status is 1
if something is missing without which stile run does not work.`,
		Example: `  stile doctor
  stile doctor --json
  apt-get install $(stile doctor --missing)`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if toBuild {
				for _, name := range kbuild.Missing(c.Context()) {
					fmt.Println(name)
				}
				return nil
			}
			findings := examine(c.Context())
			switch {
			case onlyMissing:
				printPackages(findings)
				return nil
			case asJSON:
				if err := printJSON(findings); err != nil {
					return err
				}
			default:
				printFindings(findings)
			}
			for _, f := range findings {
				if f.State == missing {
					return exitError{1}
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&onlyMissing, "missing", false, "print the Debian packages that stile run needs and that are missing, and nothing else")
	c.Flags().BoolVar(&toBuild, "missing-to-build", false, "print the Debian packages that stile lab kernel build needs and that are missing, and nothing else")
	return c
}

func printFindings(findings []finding) {
	for _, f := range findings {
		fmt.Printf("%s %-15s %s\n", f.State.paint(fmt.Sprintf("%-8s", f.State)), f.Name, f.Detail)
		if f.Remedy != "" {
			fmt.Printf("%-8s %-15s → %s\n", "", "", f.Remedy)
		}
	}
}

func printPackages(findings []finding) {
	for _, f := range findings {
		if f.State == missing && f.Package != "" {
			fmt.Println(f.Package)
		}
	}
}

// examine looks at this host.
func examine(ctx context.Context) []finding {
	host := hostFiles{os.DirFS("/")}
	onCPU, usable := examineKVM()
	findings := append([]finding{
		host.examineHost(),
		onCPU,
		host.examineNesting(),
		examineQEMU(ctx, usable),
		examineLabState(usable),
		examineLabKernels(ctx),
		examineKernel(ctx),
		examineCache(),
		examineGo(),
		examineMemory(),
		host.examineHugePages(),
		examineLimits(),
	}, examinePassthrough()...)
	return append(findings, host.examineRemapping(), host.examineVFIO())
}

// examineKVM also reports whether VMs run on this host's KVM.
func examineKVM() (finding, bool) {
	return describeKVM(guest.Speed())
}

func describeKVM(speed kvm.Speed, err error) (finding, bool) {
	f := finding{Name: "kvm", State: good}
	switch {
	case errors.Is(err, os.ErrPermission):
		f.State, f.Detail, f.Remedy = missing, err.Error(), "do what the message says, or run with --on lab"
		return f, false
	case errors.Is(err, feature.ErrNotSupported):
		f.State, f.Detail = limited, err.Error()
		f.Remedy = "VMs run in the lab, a nested host under emulation, some 20 times slower"
		return f, false
	case err != nil:
		f.State, f.Detail = limited, fmt.Sprintf("a test of %s failed: %v", kvm.Device, err)
		f.Remedy = "VMs run on this KVM all the same; where they do not, use --on lab, some 20 times slower"
		return f, true
	case !speed.RunsLinux():
		f.State, f.Detail = limited, "/dev/kvm "+speed.String()+", too slow to boot Linux"
		f.Remedy = "VMs run in the lab, a nested host under emulation; on a cloud machine, choose a kind with nested virtualisation"
		return f, false
	}
	f.Detail = "/dev/kvm " + speed.String()
	return f, true
}

func examineQEMU(ctx context.Context, usable bool) finding {
	f := finding{Name: "qemu", State: good, Detail: "not needed, KVM is usable"}
	qemu, err := lab.FindQEMU()
	var version lab.Version
	if err == nil {
		version, err = qemu.Version(ctx)
	}
	if err == nil {
		f.Detail = fmt.Sprintf("%s, version %v, for the lab", qemu.Path, version)
		return f
	}
	f.State = limited
	if !usable {
		f.State, f.Package = missing, "qemu-system-x86"
	}
	f.Detail, f.Remedy = err.Error(), "name another one by "+lab.EnvQEMU
	if lacks := (*guest.NoQEMUError)(nil); errors.As(err, &lacks) {
		f.explain(err)
	}
	return f
}

// explain takes detail and remedy from an error that says both, the remedy behind its last colon.
func (f *finding) explain(err error) {
	f.Detail = err.Error()
	if i := strings.LastIndex(f.Detail, ": "); i >= 0 {
		f.Detail, f.Remedy = f.Detail[:i], f.Detail[i+2:]
	}
}

func examineLabState(usable bool) finding {
	f := finding{Name: "lab state", State: good}
	states, err := labStates()
	switch {
	case err != nil:
		f.State, f.Detail, f.Remedy = limited, err.Error(), "see cache; stile lab prune removes what is damaged"
	case len(states) > 0:
		f.Detail = fmt.Sprintf("%d saved, %s on disk", len(states), roundSize(diskUse(states)))
	case usable:
		f.Detail = "none saved, none needed"
	default:
		f.Detail = "none saved yet: the first run boots the nested host once, about 10 s"
	}
	return f
}

// examineLabKernels tells which kernels the lab can have on this host.
func examineLabKernels(ctx context.Context) finding {
	f := finding{Name: "lab kernels", State: good}
	cache, err := images.Open("")
	if err != nil {
		f.State, f.Detail, f.Remedy = limited, err.Error(), "see cache"
		return f
	}
	ways := []string{"default"}
	if k, ok := kbuild.Cached(cache, kbuild.Options{}); ok {
		ways = append(ways, "built ("+k.Release+")")
	} else {
		f.State, f.Remedy = limited, "stile lab kernel build makes one with iommufd, and the lab twice as fast"
		if lacks := kbuild.Missing(ctx); len(lacks) > 0 {
			f.Remedy += "; first apt-get install " + strings.Join(lacks, " ")
		}
	}
	if _, err := exec.LookPath("apt-get"); err == nil {
		ways = append(ways, "6.1 and others as packages")
	}
	if k, err := distro.Host(); err == nil && k.Modules != "" {
		ways = append(ways, "host ("+k.Release+")")
	}
	f.Detail = strings.Join(append(ways, "any bzImage by its path"), ", ")
	return f
}

func labStates() ([]lab.State, error) {
	store, err := openLabStore()
	if err != nil {
		return nil, err
	}
	return store.List()
}

func diskUse(states []lab.State) (n int64) {
	for _, s := range states {
		n += s.Disk
	}
	return n
}

// kernelTimeout bounds the download of the default kernel.
const kernelTimeout = 2 * time.Minute

func examineKernel(ctx context.Context) finding {
	f := finding{Name: "kernel", State: good}
	ctx, cancel := context.WithTimeout(ctx, kernelTimeout)
	defer cancel()
	cache, err := images.Open("")
	if err == nil {
		f.Detail, err = cache.DefaultKernel(ctx)
	}
	if err != nil {
		f.State, f.Detail, f.Remedy = missing, err.Error(), "give a kernel with -k, or connect to a Go module proxy once"
	}
	return f
}

func examineCache() finding {
	f := finding{Name: "cache", State: good}
	cache, err := images.Open("")
	if err != nil {
		f.State, f.Detail, f.Remedy = missing, err.Error(), "set "+images.EnvCache+" to a folder that can be written"
		return f
	}
	var st unix.Statfs_t
	if err := unix.Statfs(cache.Dir(), &st); err != nil {
		f.State, f.Detail, f.Remedy = limited, err.Error(), "set "+images.EnvCache+" to a folder of another file system"
		return f
	}
	const wanted = 2 << 30 // a kernel, an initramfs, a lab state with its RAM
	free := int64(st.Bavail) * st.Bsize
	f.Detail = fmt.Sprintf("%s, %s free", cache.Dir(), roundSize(free))
	if free < wanted {
		f.State, f.Remedy = limited, "stile image prune --all, or set "+images.EnvCache+" to a larger disk"
	}
	return f
}

func examineGo() finding {
	f := finding{Name: "go", State: good}
	path, err := exec.LookPath("go")
	if err != nil {
		f.State, f.Detail = limited, "no Go tool: --root uroot can't be built"
		f.Remedy = "install Go if you need --root uroot"
		return f
	}
	out, err := child.Output(exec.Command(path, "env", "GOVERSION"))
	f.Detail = strings.TrimSpace(string(out)) + ", for --root uroot"
	if err != nil {
		f.State, f.Detail, f.Remedy = limited, fmt.Sprintf("%s env GOVERSION: %v", path, err), "install Go anew"
	}
	return f
}

func examineMemory() finding {
	f := finding{Name: "memory", State: good}
	limit, err := hostmem.Max()
	if err != nil {
		return finding{Name: "memory", State: limited, Detail: err.Error(), Remedy: "none: the kernel does not tell"}
	}
	f.Detail = roundSize(int64(limit.Bytes)) + " in this host"
	if limit.Group != "" {
		f.Detail = fmt.Sprintf("%s, the limit of the control group %s (%s)", roundSize(int64(limit.Bytes)), limit.Group, limit.File)
	}
	if limit.Bytes < 2*guest.DefaultMemory {
		f.State, f.Remedy = limited, fmt.Sprintf("use -m below the default of %v", vmm.Bytes(guest.DefaultMemory))
	}
	return f
}
