package vfio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/internal/uapi/vfio"
	"golang.org/x/sys/unix"
)

// How long is waited for someone who holds a device's lock in the kernel.
const (
	busyTries = 50
	busyPause = 10 * time.Millisecond
)

// retryBusy repeats a call that resets a device, as opening it does too, while the device's lock
// is held: EAGAIN (pci_try_reset_function).
func retryBusy(fn func() (int, error)) (int, error) { return retryWhile(unix.EAGAIN, fn) }

// retryAttach repeats a call that changes the address space of a group while a device of the group is being reset, which the kernel
// answers with EBUSY from Linux 7.0 on (pci_dev_reset_iommu_prepare).
func retryAttach(fn func() (int, error)) (int, error) { return retryWhile(unix.EBUSY, fn) }

func retryWhile(errno unix.Errno, fn func() (int, error)) (int, error) {
	for try := 1; ; try++ {
		n, err := fn()
		if !errors.Is(err, errno) || try == busyTries {
			return n, err
		}
		time.Sleep(busyPause)
	}
}

// CanReset reports whether the function can be reset by itself.
func (d *Device) CanReset() bool { return d.canReset }

// Reset resets the function, by its own means or through the power state, as the kernel
// chooses. The kernel restores configuration space and enabled interrupts; what the guest
// wrote to the registers is gone. The caller has removed BARs from the guest's memory.
func (d *Device) Reset() error {
	if !d.canReset {
		return feature.Missing("reset of "+d.node.Name,
			"the function has no reset of its own: its state stays what the last user left, unless a hot reset is possible")
	}
	if _, err := retryBusy(func() (int, error) { return d.file.control(callReset, 0) }); err != nil {
		return callReset.fail(d.node.Name, err)
	}
	return nil
}

// Affected is a function that a hot reset resets.
type Affected struct {
	Address string `json:"address"` // PCI address
	Group   int    `json:"group"`   // -1 with iommufd
	Owned   bool   `json:"owned"`   // with iommufd: it, or its group, is bound to ours
}

// HotReset says what a reset of the device's bus or slot affects.
type HotReset struct {
	Devices []Affected `json:"devices"`
	byID    bool
}

// HotResetInfo returns what HotReset would reset. The error wraps feature.ErrNotSupported
// where no such reset is possible, as for emulated devices and on a root bus.
func (d *Device) HotResetInfo() (HotReset, error) {
	head := sizeOf[vfio.HotResetInfo]()
	for size := head + 64*sizeOf[vfio.DependentDevice](); ; {
		buf := make([]byte, size)
		copy(buf, bytesOf(&vfio.HotResetInfo{ArgSize: uint32(size)}))
		_, err := d.file.controlBytes(callHotResetInfo, buf)
		if err == nil {
			r, err := parseHotReset(buf)
			if err != nil {
				return r, fmt.Errorf("hot reset of %s: %w", d.node.Name, err)
			}
			return r, nil
		}
		if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENODEV) {
			return HotReset{}, feature.Missing("hot reset of "+d.node.Name, "its bus cannot be reset")
		}
		info, parseErr := decode[vfio.HotResetInfo](buf)
		need := head + int(info.Count)*sizeOf[vfio.DependentDevice]()
		if !errors.Is(err, unix.ENOSPC) || parseErr != nil || need <= size || need > maxInfo {
			return HotReset{}, callHotResetInfo.fail(d.node.Name, err)
		}
		size = need
	}
}

// HotReset resets the bus or slot of the device and with it all that HotResetInfo lists. All
// of it must belong to this Space: its groups with groups, its devices with iommufd; the
// error names what does not, and wraps feature.ErrNotSupported. The caller has quieted them.
// It returns what was reset.
func (d *Device) HotReset() ([]Affected, error) {
	info, err := d.HotResetInfo()
	if err != nil {
		return nil, err
	}
	s := d.space
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.backend.hotReset(d.file, info); err != nil {
		return nil, fmt.Errorf("%s: %w", d.node.Name, err)
	}
	return info.Devices, nil
}

// issueHotReset resets with group descriptors as proof, none for iommufd.
func issueHotReset(f file, groups []int32) error {
	head := sizeOf[vfio.HotReset]()
	buf := make([]byte, head+4*len(groups))
	copy(buf, bytesOf(&vfio.HotReset{ArgSize: uint32(len(buf)), Count: uint32(len(groups))}))
	for i, fd := range groups {
		binary.NativeEndian.PutUint32(buf[head+4*i:], uint32(fd))
	}
	if _, err := f.controlBytes(callHotReset, buf); err != nil {
		return callHotReset.fail("the devices of the bus", err)
	}
	return nil
}
