package mdev

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/hostpci"
)

// Create makes a mediated device of a parent and returns its UUID: the given one, or a
// new one if that is "". The type may be named by the end of its ID.
func (h *Host) Create(parent, typ, uuid string) (string, error) {
	if uuid == "" {
		uuid = NewUUID()
	}
	uuid, err := ParseUUID(uuid)
	if err != nil {
		return "", err
	}
	p, err := h.Parent(parent)
	if err != nil {
		return "", err
	}
	t, err := p.find(typ)
	if err != nil {
		return "", err
	}
	w := hostpci.Write{Path: parentClass + "/" + p.Name + "/" + supported + "/" + t.ID + "/create", Value: uuid}
	if err := h.write.Write(w); err != nil {
		return "", &createError{uuid, p, t, h.parentOf(uuid), err}
	}
	return uuid, nil
}

// parentOf returns the parent of a device, "" if it is not there.
func (h *Host) parentOf(uuid string) string {
	s, err := h.pci.Scan()
	if err != nil || s.MediatedDevice(uuid) == nil {
		return ""
	}
	return s.MediatedDevice(uuid).Parent
}

// createError is a creation that failed, with what the kernel means by it.
type createError struct {
	uuid   string
	parent *Parent
	typ    *Type
	owner  string // parent of the device that has the UUID already
	err    error
}

func (e *createError) Unwrap() error { return e.err }

func (e *createError) Error() string {
	return fmt.Sprintf("make mediated device %s of %s (%s): %s", e.uuid, e.parent.Name, e.typ.ID, e.reason())
}

func (e *createError) reason() string {
	switch {
	case errors.Is(e.err, unix.EEXIST) && e.owner != "":
		return "this UUID belongs to a mediated device of " + e.owner + " already; choose another, or none"
	case errors.Is(e.err, unix.EEXIST):
		return "this UUID belongs to a mediated device already; choose another, or none"
	case errors.Is(e.err, unix.EUSERS), errors.Is(e.err, unix.ENOSPC):
		return "no instance of the type is left; made are " + orNone(e.typ.Devices) + "; remove one with stile mdev remove"
	case errors.Is(e.err, unix.EINVAL):
		return "the driver " + e.parent.Driver + " refuses it (EINVAL); the kernel's log (dmesg) may say why"
	case errors.Is(e.err, unix.EBUSY) && e.parent.Driver == hostpci.DonorDriver:
		return "the function has virtual functions; take them away first (sriov_numvfs)"
	case errors.Is(e.err, unix.EBUSY):
		return "the parent or its group is in use (EBUSY)"
	case errors.Is(e.err, unix.ENODEV), errors.Is(e.err, fs.ErrNotExist):
		return "the parent is about to lose its driver, or has lost it"
	case errors.Is(e.err, unix.ENOMEM):
		return "the kernel or the device has no memory left for it"
	}
	return common(e.err)
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none of this type, so another type has taken what they share"
	}
	return strings.Join(list, ", ")
}

// common explains the errors that every write to sysfs can have.
func common(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "sysfs is mounted read-only, as in a container; run on the host, or in a privileged container"
	case errors.Is(err, fs.ErrPermission):
		return "this needs root"
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// RemoveOptions says how to remove a device.
type RemoveOptions struct {
	// Force removes a device although a process has it, or another of its IOMMU group,
	// open: the kernel then asks the user of the device to let go and waits.
	Force bool
	// Notice is told what takes long. It may be nil.
	Notice func(text string)
}

func (o RemoveOptions) notice(text string) {
	if o.Notice != nil {
		o.Notice(text)
	}
}

// Remove removes a mediated device. One that is in use is refused with an InUseError,
// because the kernel would wait until its user closes it, with no way back.
func (h *Host) Remove(uuid string, o RemoveOptions) error {
	uuid, err := ParseUUID(uuid)
	if err != nil {
		return err
	}
	s, err := h.pci.Scan()
	if err != nil {
		return err
	}
	m := s.MediatedDevice(uuid)
	if m == nil {
		return fmt.Errorf("no mediated device %s on this host; see stile mdev list", uuid)
	}
	inUse := free(s, m)
	if inUse != nil && !o.Force {
		return inUse
	}
	return h.remove(uuid, inUse, o.notice)
}

// remove removes a device. inUse is what the kernel is known to wait for, or nil: once
// the removal has begun sysfs does not tell any more.
func (h *Host) remove(uuid string, inUse error, notice func(string)) error {
	text := "the kernel waits for " + uuid + " to be closed"
	if inUse != nil {
		text += ": " + inUse.Error()
	}
	err := h.slow(hostpci.Write{Path: busDevices + "/" + uuid + "/remove", Value: "1"}, func() { notice(text) })
	if err != nil {
		return &removeError{uuid, err}
	}
	return nil
}

// slow makes a write that may take as long as a device is in use, and tells when it does.
func (h *Host) slow(w hostpci.Write, tell func()) error {
	result := make(chan error, 1)
	go func() { result <- h.write.Write(w) }()
	timer := time.NewTimer(h.noticeAfter)
	defer timer.Stop()
	for {
		select {
		case err := <-result:
			return err
		case <-timer.C:
			tell()
		}
	}
}

// removeError is a removal that failed, with what the kernel means by it.
type removeError struct {
	uuid string
	err  error
}

func (e *removeError) Unwrap() error { return e.err }

func (e *removeError) Error() string {
	return fmt.Sprintf("remove mediated device %s: %s", e.uuid, e.reason())
}

func (e *removeError) reason() string {
	switch {
	case errors.Is(e.err, unix.EAGAIN):
		return "it is being made, or removed, by someone else; see stile mdev list, and try again"
	case errors.Is(e.err, unix.ENODEV), errors.Is(e.err, fs.ErrNotExist):
		return "it is gone, or its parent is about to lose its driver"
	case errors.Is(e.err, unix.EBUSY):
		return "its driver says that it is in use (EBUSY)"
	}
	return common(e.err)
}
