package mdev

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/child"
)

const lockdownFile = "/sys/kernel/security/lockdown"

// needed are the modules that the module uses.
func needed() []string { return []string{"mdev", "vfio_pci_core"} }

// useful are modules that a kernel may lack. vfio_pci comes before its core: kernels before 7.2 count the core's runtime power wrongly
// where vfio_pci comes later with other parameters. The others map memory for VMs, of which one is enough.
func useful() []string { return []string{"vfio_pci", "vfio_iommu_type1", "iommufd"} }

func runningRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("ask for the kernel's release: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// Load loads a module's file into the running kernel. One that is loaded already is no
// error. The errors say what to do about a module for another kernel, and about kernels
// that refuse modules without signature.
func Load(path, release string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	magic, err := vermagicOf(f)
	if err != nil {
		return fmt.Errorf("load kernel module %s: %w", path, err)
	}
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if err == nil || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return &loadError{path, release, magic, lockdown(lockdownFile), os.Geteuid() == 0, err}
}

// vermagicOf returns what a module says of the kernel that it was built for: its release
// and some options.
func vermagicOf(f io.ReaderAt) (string, error) {
	e, err := elf.NewFile(f)
	if err != nil {
		return "", fmt.Errorf("not a module: %w", err)
	}
	section := e.Section(".modinfo")
	if section == nil {
		return "", errors.New("not a module: no section .modinfo")
	}
	data, err := section.Data()
	if err != nil {
		return "", err
	}
	for line := range bytes.SplitSeq(data, []byte{0}) {
		if value, ok := bytes.CutPrefix(line, []byte("vermagic=")); ok {
			return strings.TrimSpace(string(value)), nil
		}
	}
	return "", errors.New("not a module: it names no kernel")
}

// lockdown returns the kernel's lockdown mode ("integrity", "confidentiality"), "" for none.
func lockdown(path string) string {
	text, _ := os.ReadFile(path)
	_, after, ok := strings.Cut(string(text), "[")
	mode, _, closed := strings.Cut(after, "]")
	if !ok || !closed || mode == "none" {
		return ""
	}
	return mode
}

// loadError is a module that the kernel refused, with what is known of the reason.
type loadError struct {
	path, release, magic, lockdown string
	root                           bool
	err                            error
}

func (e *loadError) Unwrap() error { return e.err }

func (e *loadError) Error() string {
	return fmt.Sprintf("load kernel module %s: %v: %s", e.path, e.err, e.reason())
}

func (e *loadError) reason() string {
	builtFor, _, _ := strings.Cut(e.magic, " ")
	signed := "sign it with a key that the kernel trusts (scripts/sign-file of the kernel's headers; mokutil enrols a key)"
	switch {
	case builtFor != e.release:
		return "it was built for kernel " + builtFor + ", and " + e.release + " runs; build it against the headers of the running one"
	case errors.Is(e.err, unix.EKEYREJECTED), errors.Is(e.err, unix.ENOKEY), errors.Is(e.err, unix.EBADMSG):
		return "this kernel loads only signed modules; " + signed
	case errors.Is(e.err, unix.EPERM) && e.lockdown != "":
		return "the kernel is locked down (" + e.lockdown + ", as with Secure Boot) and loads only signed modules; " + signed
	case errors.Is(e.err, unix.EPERM) && !e.root:
		return "loading modules needs root"
	case errors.Is(e.err, unix.EPERM):
		return "the right CAP_SYS_MODULE is missing, as in a container, or loading is switched off (kernel.modules_disabled)"
	case errors.Is(e.err, unix.ENOEXEC):
		return "the headers it was built against are not those of the running kernel, though of the same name (it has " + e.magic + "); the kernel's log (dmesg) says more"
	case errors.Is(e.err, unix.ENOENT):
		return "the kernel lacks what it uses: mediated devices (CONFIG_VFIO_MDEV) or VFIO for PCI (CONFIG_VFIO_PCI_CORE); install the distribution's full kernel, not its cloud or minimal one"
	}
	return "the kernel's log (dmesg) says more"
}

// loader loads modules of the running kernel.
type loader struct {
	root    string // of the file system, "/" but in tests
	release string
	probe   func(modules ...string) error // modprobe
	closure func(dir string, modules []string) error
}

// loadDependencies loads the modules that ours needs, as far as they are not built in.
func loadDependencies(release string) error {
	return loader{"/", release, modprobe, loadClosure}.dependencies()
}

func (l loader) dependencies() error {
	for _, name := range useful() {
		_ = l.load(name) // what can't do without is found out below
	}
	if err := l.load(needed()...); err != nil {
		return err
	}
	for _, sign := range []string{"sys/module/vfio_iommu_type1", "dev/iommu"} {
		if _, err := os.Stat(filepath.Join(l.root, sign)); err == nil {
			return nil
		}
	}
	return errors.New("this kernel has neither vfio_iommu_type1 (CONFIG_VFIO_CONTAINER) nor iommufd, by which a VM's memory is mapped for devices: " +
		"install the distribution's full kernel, not its cloud or minimal one")
}

// load loads those of the modules that are not there.
func (l loader) load(modules ...string) error {
	var want []string
	for _, name := range modules {
		if _, err := os.Stat(filepath.Join(l.root, "sys/module", name)); err != nil {
			want = append(want, name)
		}
	}
	if len(want) == 0 {
		return nil
	}
	err := l.probe(want...)
	if err == nil {
		return nil
	}
	// There may be no modprobe, or it may have no list of this kernel's modules (modules.dep).
	closureErr := l.closure(filepath.Join(l.root, "lib/modules", l.release), want)
	if closureErr == nil || errors.Is(err, exec.ErrNotFound) {
		return closureErr
	}
	return fmt.Errorf("%w; without modprobe: %w", err, closureErr)
}

// modprobe loads modules by the program that knows the host's module options.
func modprobe(modules ...string) error {
	out, err := child.CombinedOutput(exec.Command("modprobe", append([]string{"-a", "--"}, modules...)...))
	if err == nil || errors.Is(err, exec.ErrNotFound) {
		return err
	}
	return fmt.Errorf("modprobe %s: %w: %s", strings.Join(modules, " "), err, bytes.TrimSpace(out))
}

// moduleCompressed is MODULE_INIT_COMPRESSED_FILE of linux/module.h: the kernel unpacks.
const moduleCompressed = 4

// loadClosure loads modules and what they need, without modprobe.
func loadClosure(dir string, want []string) error {
	modules, missing, err := images.ModuleClosure(dir, want)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("this kernel has no modules %s: install the distribution's full kernel, not its cloud or minimal one", strings.Join(missing, ", "))
	}
	for _, m := range modules {
		if err := loadFile(m.Path); err != nil {
			return fmt.Errorf("load kernel module %s: %w", m.Path, err)
		}
	}
	return nil
}

func loadFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		flags = moduleCompressed
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
