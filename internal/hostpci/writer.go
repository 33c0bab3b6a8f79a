package hostpci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/child"
)

// Write is one write to sysfs.
type Write struct {
	Path  string `json:"path"`
	Value string `json:"value"` // a newline alone empties driver_override
}

// String returns the write as a shell command.
func (w Write) String() string {
	return fmt.Sprintf("echo %s> %s", strings.TrimLeft(strings.TrimSpace(w.Value)+" ", " "), w.Path)
}

// Writer makes writes to sysfs. The error is the kernel's own.
type Writer interface {
	Write(w Write) error
}

// fileWriter writes to files below the root of a tree.
type fileWriter struct{ tree *tree }

func (f fileWriter) Write(w Write) error {
	file, err := os.OpenFile(f.tree.path(w.Path), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(w.Value)
	return errors.Join(err, file.Close())
}

// modprobe loads a module by the program that knows the host's module options.
func modprobe(module string) error {
	out, err := child.CombinedOutput(exec.Command("modprobe", "--", module))
	if err == nil {
		return nil
	}
	if text := strings.TrimSpace(string(out)); text != "" {
		return errors.New(text)
	}
	return err
}

// writeError is a write that failed, with what the kernel means by it.
type writeError struct {
	write Write
	err   error
}

func (e *writeError) Unwrap() error { return e.err }

func (e *writeError) Error() string {
	text := fmt.Sprintf("%v: %s", e.write, plain(e.err))
	if hint := e.hint(); hint != "" {
		text += ": " + hint
	}
	return text
}

func (e *writeError) hint() string {
	unbind := strings.HasSuffix(e.write.Path, "/unbind")
	switch {
	case errors.Is(e.err, unix.EROFS):
		return "sysfs is mounted read-only, as in a container; run on the host, or in a privileged container"
	case errors.Is(e.err, fs.ErrPermission):
		return "changing drivers needs root, and a kernel that is not locked down"
	case errors.Is(e.err, unix.EBUSY), errors.Is(e.err, unix.EINVAL):
		return "another function of its IOMMU group is in use by a guest, and no host driver may join the group meanwhile"
	case errors.Is(e.err, unix.ENODEV) && unbind:
		return "the function has another driver by now, or is gone"
	case errors.Is(e.err, unix.ENODEV), errors.Is(e.err, fs.ErrNotExist):
		return "the function or the driver is gone, or they don't fit each other"
	}
	return ""
}
