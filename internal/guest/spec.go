// Package guest makes a VM with stile's agent in it: it chooses the kernel, the
// initramfs, the root and the command line, boots, and connects to the agent. The
// command and vmtest share it.
package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/stile-vmm/stile/internal/control"
	"github.com/stile-vmm/stile/vmm"
)

// Exit statuses of stile besides the command's own and 128+n for a signal.
const (
	ExitDied    = 122 // the guest died: panic, triple fault, agent lost
	ExitTimeout = 124
	ExitSetup   = 125 // stile or the set-up failed
)

const (
	// DefaultMemory is guest RAM in bytes where none is asked for.
	DefaultMemory = 512 << 20
	// DefaultBootTimeout is how long a guest may take to start its agent. A nested,
	// emulated guest needs some seconds, with several CPUs or on a busy machine many times that.
	DefaultBootTimeout = 4 * time.Minute
)

// Roots that are not a folder.
const (
	RootHost  = "host"  // a copy-on-write view of the host's /
	RootNone  = "none"  // the agent alone
	RootURoot = "uroot" // a u-root userland
)

// Spec says which guest to boot. It is a plain value that can be sent to another
// process.
type Spec struct {
	Name        string        `json:"name,omitempty"`       // the VM's ID for its control socket; "" makes one up
	Command     []string      `json:"command,omitempty"`    // what the guest is for, as stile ps shows it
	Kernel      string        `json:"kernel,omitempty"`     // path, packaged version, KernelHost; "" is the default kernel
	Modules     string        `json:"modules,omitempty"`    // lib/modules/RELEASE of a kernel whose virtio or 9p are modules
	Initramfs   []string      `json:"initramfs,omitempty"`  // paths, unpacked under the agent
	Append      []string      `json:"append,omitempty"`     // words for the kernel's command line
	CPUs        int           `json:"cpus,omitempty"`       // 0: see defaultCPUs
	Memory      uint64        `json:"memory,omitempty"`     // bytes
	HugePages   bool          `json:"huge_pages,omitempty"` // RAM of the host's pool only
	Root        string        `json:"root,omitempty"`       // RootHost, RootNone, RootURoot, a folder or a disk image
	Dir         string        `json:"dir,omitempty"`        // of the host, where commands run if that is not this process's
	Verbose     bool          `json:"verbose,omitempty"`
	BootTimeout time.Duration `json:"boot_timeout,omitempty"`
	NoRNG       bool          `json:"no_rng,omitempty"`     // leave out virtio-rng
	CountRAM    bool          `json:"count_ram,omitempty"`  // for Report.GuestRAMResident, which takes time with much RAM
	OnOops      string        `json:"on_oops,omitempty"`    // as vmm.ParseReports takes it; "" has the defaults
	KeepGoing   bool          `json:"keep_going,omitempty"` // leave a guest that panics or hangs to a debugger
	PowerOff    bool          `json:"power_off,omitempty"`  // ask the guest to power off at its end; see keeps
	Scratch     string        `json:"scratch,omitempty"`    // a folder of the guest that is to be a file system in memory of its own

	OnReboot string `json:"on_reboot,omitempty"` // a vmm.RebootPolicy

	Folders []Folder `json:"folders,omitempty"` // of the host, mounted in the guest

	Disks []vmm.Disk `json:"disks,omitempty"`

	Nets []string `json:"nets,omitempty"` // network cards, as vmm.ParseNet takes them

	Vsock   *vmm.Vsock `json:"vsock,omitempty"` // a Path of "" is made from the VM's ID
	Balloon bool       `json:"balloon,omitempty"`

	Devices       []string `json:"devices,omitempty"`         // of the host, as ParseDevice takes them
	VFIO          string   `json:"vfio,omitempty"`            // backend; "" chooses
	OnUnplug      string   `json:"on_unplug,omitempty"`       // a vmm.Policy
	OnDeviceError string   `json:"on_device_error,omitempty"` // a vmm.Policy
}

// onReport is what reports of the guest's kernel do. A fault in OnOops was found by Validate.
func (s Spec) onReport() vmm.Reports {
	r, _ := vmm.ParseReports(s.OnOops)
	return r
}

// hugePages is what the VM takes of the host's pool: in the lab what is free, as L1 may have no others.
func (s Spec) hugePages() vmm.HugePages {
	switch {
	case s.HugePages:
		return vmm.PoolOnly
	case Nested():
		return vmm.PoolIfFree
	}
	return ""
}

// keeps reports whether the guest has to power off in order at its end: where it was asked for, and where drivers
// have to let go of devices that outlive it, or file systems to be written to disks. All else that a guest has is thrown away
// with it, and a power-off takes a second under emulation.
func (s Spec) keeps() bool {
	return s.PowerOff || len(s.Devices) > 0 || s.writesDisks()
}

// bootContext bounds the boot.
func (s Spec) bootContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.KeepGoing {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, s.BootTimeout, &BootTimeoutError{s.BootTimeout})
}

// withDefaults fills in what is not set.
func (s Spec) withDefaults() Spec {
	if s.Kernel == KernelDefault {
		s.Kernel = ""
	}
	if s.CPUs == 0 {
		s.CPUs = defaultCPUs()
	}
	if s.Memory == 0 {
		s.Memory = DefaultMemory
	}
	if s.Root == "" {
		s.Root = RootHost
	}
	if s.BootTimeout == 0 {
		s.BootTimeout = DefaultBootTimeout
	}
	return s
}

// inLab is withDefaults for a guest in the nested host, which is described here.
func (s Spec) inLab() Spec {
	if s.CPUs == 0 {
		s.CPUs = labCPUs
	}
	return s.withDefaults()
}

// Validate reports every fault that can be found before anything is started.
func (s Spec) Validate() error {
	s = s.withDefaults()
	cfg := vmm.Config{Kernel: "unknown", CPUs: s.CPUs, Memory: s.Memory, OnReboot: vmm.RebootPolicy(s.OnReboot)}
	faults := []error{cfg.Validate()}
	if s.BootTimeout < 0 {
		faults = append(faults, fmt.Errorf("boot timeout of %v is negative", s.BootTimeout))
	}
	faults = append(faults, s.validateKernel(), s.validateCPUs())
	for _, path := range s.Initramfs {
		faults = append(faults, readable(path))
	}
	if s.rootIsFolder() {
		faults = append(faults, folder(s.Root))
	}
	faults = append(faults, validateFolders(s.Folders)...)
	if _, err := vmm.ParseReports(s.OnOops); err != nil {
		faults = append(faults, fmt.Errorf("--on-oops: %w", err))
	}
	if s.Name != "" {
		faults = append(faults, control.CheckID(s.Name))
	}
	faults = append(faults, s.validateDisks(), s.validateLinks(), s.validateBalloon(), s.validateVsock())
	faults = append(faults, s.validateNets())
	faults = append(faults, s.validateDevices()...)
	return errors.Join(faults...)
}

// rootIsWord reports whether the root is none that has a path.
func (s Spec) rootIsWord() bool {
	return s.Root == "" || s.Root == RootHost || s.Root == RootNone || s.Root == RootURoot
}

func (s Spec) rootIsFolder() bool { return !s.rootIsWord() && !s.rootIsImage() }

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func folder(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("root %s: %w; --root takes host, none, uroot, a folder or a disk image", path, err)
	}
	if !st.IsDir() {
		return fmt.Errorf("root %s is not a folder; --root takes host, none, uroot, a folder or a disk image", path)
	}
	return nil
}

// Absolute makes the paths in s absolute, for a process with another working directory.
func (s Spec) Absolute() (Spec, error) {
	var err error
	abs := func(path string) string {
		if path == "" || err != nil {
			return path
		}
		var absolute string
		if absolute, err = filepath.Abs(path); err != nil {
			err = fmt.Errorf("%s starts from the current directory, which can't be found: %w", path, err)
		}
		return absolute
	}
	if s.kernelIsPath() {
		s.Kernel = abs(s.Kernel)
	}
	s.Modules = abs(s.Modules)
	initramfs := make([]string, len(s.Initramfs))
	for i, path := range s.Initramfs {
		initramfs[i] = abs(path)
	}
	s.Initramfs = initramfs
	folders := make([]Folder, len(s.Folders))
	for i, f := range s.Folders {
		f.Host = abs(f.Host)
		folders[i] = f
	}
	s.Folders = folders
	disks := make([]vmm.Disk, len(s.Disks))
	for i, d := range s.Disks {
		d.Path = abs(d.Path)
		if d.Backing != "" {
			d.Backing = abs(d.Backing)
		}
		disks[i] = d
	}
	s.Disks = disks
	if s.Vsock != nil && s.Vsock.Path != "" {
		v := *s.Vsock
		v.Path = abs(v.Path)
		s.Vsock = &v
	}
	if !s.rootIsWord() {
		s.Root = abs(s.Root)
	}
	return s, err
}
