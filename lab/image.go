package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Image is what L1 boots.
type Image struct {
	// Kernel is the path of a bzImage with KVM for AMD, 9p, overlay and virtio built in.
	Kernel string
	// Modules is the host's folder of the kernel's modules, lib/modules/RELEASE; "" when there is none.
	Modules string
	// Agent is the path of the static binary that was, or will be, put in as /init. At each resume
	// it takes over from the saved one when it is another.
	Agent string
	// Initramfs writes the initramfs, with Agent as /init.
	Initramfs func(io.Writer) error
	// ID names what else the image depends on.
	ID string
}

// identity changes when L1 would boot something else. The agent is not part of it.
func (i *Image) identity() (string, error) {
	kernel, err := fileIdentity(i.Kernel)
	if err != nil {
		return "", fmt.Errorf("the lab's kernel: %w", err)
	}
	return kernel + " " + i.ID, nil
}

func (i *Image) writeInitramfs(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(i.Initramfs(f), f.Close()); err != nil {
		return fmt.Errorf("the lab's initramfs: %w", err)
	}
	return nil
}

// backend returns what stands behind the machine.
func (i *Image) backend(ram, empty string, shared, bare bool) backend {
	b := backend{ram: ram, shared: shared, root: "/", tmp: "/tmp", empty: empty, bare: bare}
	if info, err := os.Stat(b.tmp); err != nil || !info.IsDir() {
		b.tmp = b.root // there must be something behind the device
	}
	return b
}
