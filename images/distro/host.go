package distro

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images"
)

// Host returns the kernel that runs this program, with its modules.
func Host() (*Kernel, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("uname: %w", err)
	}
	return host("/", unix.ByteSliceToString(u.Release[:]))
}

// host finds the kernel in the places where distributions put it.
func host(root, release string) (*Kernel, error) {
	modules := modulesBelow(root, release)
	if modules == "" {
		return nil, fmt.Errorf("the running kernel, %s, has no /lib/modules/%[1]s: take a packaged kernel", release)
	}
	places := []string{
		filepath.Join(root, "boot", "vmlinuz-"+release),
		filepath.Join(modules, images.KernelFile),    // Fedora, Arch, Debian
		filepath.Join(root, "boot", "vmlinuz-linux"), // Arch
		filepath.Join(root, "boot", "kernel-"+release),
	}
	var errs []error
	for _, image := range places {
		f, err := os.Open(image)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f.Close()
		if own := imageRelease(image); own != "" && own != release {
			errs = append(errs, fmt.Errorf("%s is a kernel %s", image, own))
			continue
		}
		return &Kernel{Image: image, Modules: modules, Headers: existing(modules, "build"), Release: release}, nil
	}
	return nil, fmt.Errorf("the running kernel's file is not found or not readable; take a packaged kernel: %w", errors.Join(errs...))
}

// FromPath returns the kernel in a file, with the modules in a lib/modules/RELEASE folder, or that in a folder that FromFolder
// takes. When modules is "" they are looked for around the kernel's file, as images.ModulesFor does.
func FromPath(image, modules string) (*Kernel, error) {
	info, err := os.Stat(image)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	if modules != "" && existing(modules) == "" {
		return nil, fmt.Errorf("modules of the kernel: %s is not a folder", modules)
	}
	if info.IsDir() {
		k, err := FromFolder(image)
		if err == nil && modules != "" {
			k.Modules = modules
		}
		return k, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("kernel %s is neither a file nor a folder", image)
	}
	if modules == "" {
		modules = images.ModulesFor(image)
	}
	k := &Kernel{Image: image, Modules: modules, Release: imageRelease(image)}
	if name, ok := strings.CutPrefix(filepath.Base(image), "vmlinuz-"); ok && k.Release == "" {
		k.Release = name
	}
	if filepath.Base(image) == images.KernelFile && modules != "" && k.Release == "" {
		k.Release = filepath.Base(modules)
	}
	if modules != "" {
		k.Headers = existing(modules, "build")
	}
	return k, nil
}

// Where a bzImage says what it is (Documentation/arch/x86/boot.rst), in bytes.
const (
	setupMagicAt    = 0x202
	setupMagic      = "HdrS"
	kernelVersionAt = 0x20e
	setupBase       = 0x200
	maxSetup        = 64 << 10
)

// imageRelease returns the release that a bzImage names in its header, "" when it doesn't.
func imageRelease(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, maxSetup))
	if err != nil {
		return ""
	}
	return headerRelease(head)
}

func headerRelease(head []byte) string {
	if len(head) < kernelVersionAt+2 || string(head[setupMagicAt:setupMagicAt+4]) != setupMagic {
		return ""
	}
	at := int(binary.LittleEndian.Uint16(head[kernelVersionAt:]))
	if at == 0 || at+setupBase >= len(head) {
		return ""
	}
	text, _, _ := strings.Cut(string(head[at+setupBase:]), "\x00")
	release, _, _ := strings.Cut(text, " ")
	return release
}
