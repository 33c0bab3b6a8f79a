package vmtest

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/testrun"
	"github.com/stile-vmm/stile/vmm"
)

// Config describes a VM. The zero value is one CPU, 512 MiB, the default kernel and a view
// of the host's root.
type Config struct {
	// Kernel is the path of a bzImage, an ELF vmlinux or a folder where a kernel was built, the version of a packaged one
	// such as "6.12", or "host"; "" is the default kernel. Its modules are found by modprobe.
	Kernel  string
	Modules string        // the kernel's lib/modules/RELEASE folder, where virtio and 9p are modules
	Append  []string      // words for the kernel's command line
	CPUs    int           // 0: this host's, up to four; one in the lab
	Memory  uint64        // bytes; 0 is 512 MiB
	Root    string        // "host", "none", "uroot", a folder or a disk image; "" is "host"
	Folders []Folder      // of the host, mounted in the guest
	Disks   []Disk        // /dev/vda and on; one that is written to makes PowerOff so
	Net     []string      // network cards, as stile run --net takes them: "user,fwd=8022:22"
	Vsock   *Vsock        // a vsock device, nil for none
	Balloon bool          // lets the guest give memory back
	Timeout time.Duration // for the boot; 0 is four minutes
	// PowerOff powers the guest off in order at its end. Otherwise it is stopped: what it wrote is thrown away with it.
	PowerOff bool
	// OnOops says what happens when the guest's kernel reports a fault that it survives: "stop", "warn" or "ignore" for all
	// kinds, or KIND=ACTION,… as stile run --on-oops takes it. "" stops for an oops, KASAN's findings and a lockup, and warns of
	// the rest. A report that stops the VM fails the test.
	OnOops string
	// Devices are passed through: what Device returns, or ADDRESS[,bind] as stile run --device takes it.
	Devices []string
	// Topology is the lab's, where the VM runs in the lab; "" is one without devices, or the one with all of them
	// where Devices has some.
	Topology string
	// LabKernel is the kernel of the nested host, as in LabConfig.Kernel.
	LabKernel string
}

// Folder is a folder of the host, seen at Guest in the VM, the same path where Guest is empty. Its Mode is "ro",
// "rw", or "cow" for writes that end with the VM, which "" is too; docs/folders.md says whose the files are.
type Folder = guest.Folder

// Vsock is a VM's vsock device: its context ID, and the UNIX socket on this side.
type Vsock = vmm.Vsock

func (c Config) spec() guest.Spec {
	s := guest.Spec{
		Kernel: c.Kernel, Modules: c.Modules, Append: c.Append, CPUs: c.CPUs, Memory: c.Memory, Root: c.Root,
		Folders: c.folders(), Disks: c.Disks, Nets: c.Net, Vsock: c.Vsock, Balloon: c.Balloon, BootTimeout: c.Timeout, PowerOff: c.PowerOff, Devices: c.Devices,
		OnOops: c.OnOops,
	}
	if c.viewsHost() {
		s.Scratch = testrun.Scratch
	}
	return s
}

// folders returns the folders with a mode each.
func (c Config) folders() []Folder {
	folders := slices.Clone(c.Folders)
	for i := range folders {
		folders[i].Mode = cmp.Or(folders[i].Mode, guest.FolderCOW)
	}
	return folders
}

func (c Config) lab() guest.LabSpec { return guest.LabSpec{Topology: c.Topology, Kernel: c.LabKernel} }

// where says where VMs of c run. Each thing that the user is to hear of that is said once.
func (c Config) where() guest.Anywhere {
	return guest.Anywhere{
		On: os.Getenv(envOn), Lab: c.lab(), Progress: os.Stderr,
		Notice: func(text string) { shared.notice(os.Stderr, text) },
	}
}

// viewsHost reports whether the guest sees this host's files at their paths.
func (c Config) viewsHost() bool { return c.Root == "" || c.Root == guest.RootHost }

// runsTests says why a test binary can't run in such a guest, nil if it can.
func (c Config) runsTests() error {
	if !c.viewsHost() {
		return fmt.Errorf("the test binary is not in a guest whose root is %q: %w", c.Root, errors.ErrUnsupported)
	}
	return nil
}

// workDir is where commands run in the guest.
func (c Config) workDir() (string, error) {
	if !c.viewsHost() {
		return "/", nil
	}
	return os.Getwd()
}
