package vfio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/stile-vmm/stile/internal/uapi/vfio"
	"golang.org/x/sys/unix"
)

// IRQ is a kind of interrupt of a PCI device.
type IRQ int

// The first three exclude each other.
const (
	INTx IRQ = vfio.INTxIRQ
	MSI  IRQ = vfio.MSIIRQ
	MSIX IRQ = vfio.MSIXIRQ
	// Err tells of an uncorrectable PCIe error (AER).
	Err IRQ = vfio.ErrIRQ
	// Req tells that the host wants the device back: an unbind waits for it.
	Req IRQ = vfio.ReqIRQ

	numIRQs = vfio.NumIRQs
)

func (i IRQ) String() string {
	names := [numIRQs]string{"INTx", "MSI", "MSI-X", "error notification", "release request"}
	if i < 0 || i >= numIRQs {
		return fmt.Sprintf("interrupt kind %d", int(i))
	}
	return names[i]
}

// IRQInfo says what a device has of a kind of interrupt.
type IRQInfo struct {
	Count      int  `json:"count"`      // vectors, 0 if the device has none of the kind
	EventFD    bool `json:"eventfd"`    // can be signalled
	Maskable   bool `json:"maskable"`   // MaskINTx, UnmaskINTx
	AutoMasked bool `json:"autoMasked"` // masked by the kernel when it comes
	NoResize   bool `json:"noResize"`   // vectors cannot be added while others are in use
}

// VectorsError says that the host has not as many vectors as were asked for.
type VectorsError struct {
	Kind            IRQ
	Want, Available int
}

func (e *VectorsError) Error() string {
	return fmt.Sprintf("%v: the host can give %d vectors, not %d", e.Kind, e.Available, e.Want)
}

// vectors is the state of INTx, MSI and MSI-X.
type vectors struct {
	active bool
	kind   IRQ
	fds    []int // of each allocated vector, -1 for none
}

// readIRQ asks for the interrupts of a kind. EINVAL: the device has none of it.
func (d *Device) readIRQ(i IRQ) error {
	arg := vfio.IRQInfo{ArgSize: uint32(sizeOf[vfio.IRQInfo]()), Index: uint32(i)}
	_, err := d.file.controlBytes(callIRQInfo, bytesOf(&arg))
	if errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return callIRQInfo.fail(fmt.Sprintf("%v of %s", i, d.node.Name), err)
	}
	if d.irqs[i], err = parseIRQ(bytesOf(&arg)); err != nil {
		return fmt.Errorf("%v of %s: %w", i, d.node.Name, err)
	}
	return nil
}

// IRQInfo returns what the device has of a kind of interrupt.
func (d *Device) IRQInfo(i IRQ) IRQInfo {
	if i < 0 || i >= numIRQs {
		return IRQInfo{}
	}
	return d.irqs[i]
}

// setIRQs issues VFIO_DEVICE_SET_IRQS for count vectors from start on; fds are their
// eventfds where flags have IRQSetDataEventFD. It returns what the kernel returned.
func (d *Device) setIRQs(i IRQ, flags uint32, start, count int, fds ...int) (int, error) {
	head := sizeOf[vfio.IRQSet]()
	buf := make([]byte, head+4*len(fds))
	arg := vfio.IRQSet{ArgSize: uint32(len(buf)), Flags: flags, Index: uint32(i), Start: uint32(start), Count: uint32(count)}
	copy(buf, bytesOf(&arg))
	for n, fd := range fds {
		binary.NativeEndian.PutUint32(buf[head+4*n:], uint32(int32(fd)))
	}
	n, err := d.file.controlBytes(callSetIRQs, buf)
	if err != nil {
		return 0, callSetIRQs.fail(fmt.Sprintf("%v of %s", i, d.node.Name), err)
	}
	return n, nil
}

const (
	triggerByFD = vfio.IRQSetDataEventFD | vfio.IRQSetActionTrigger
	triggerNone = vfio.IRQSetDataNone | vfio.IRQSetActionTrigger
)

// EnableMSI switches to MSI or MSI-X with a vector for each of fds, eventfds or -1, and
// switches off what was on. Without fds one vector without eventfd is enabled, so that the
// device no longer uses INTx. *VectorsError if the host has fewer: all is off then.
//
// It must come before the guest's enable bit is written to the device.
func (d *Device) EnableMSI(kind IRQ, fds []int) error {
	if kind != MSI && kind != MSIX {
		return fmt.Errorf("enable %v of %s as message-signalled interrupt", kind, d.node.Name)
	}
	if len(fds) == 0 {
		fds = []int{-1}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.open(); err != nil {
		return err
	}
	if n := d.irqs[kind].Count; len(fds) > n {
		return fmt.Errorf("enable %d vectors of %v of %s, which has %d", len(fds), kind, d.node.Name, n)
	}
	if err := d.disable(); err != nil {
		return err
	}
	return d.enable(kind, fds)
}

func (d *Device) open() error {
	if d.closed {
		return fmt.Errorf("%s is closed", d.node.Name)
	}
	return nil
}

func (d *Device) enable(kind IRQ, fds []int) error {
	n, err := d.setIRQs(kind, triggerByFD, 0, len(fds), fds...)
	if err != nil {
		return err
	}
	if n > 0 {
		return &VectorsError{kind, len(fds), n}
	}
	d.vectors = vectors{true, kind, slices.Clone(fds)}
	return nil
}

// SetVector gives a vector of the active MSI or MSI-X an eventfd, or takes it away with -1. A
// vector that is not allocated yet is added; where the kernel cannot do that (IRQInfo.NoResize)
// all are switched off and on again, and what comes meanwhile is lost.
func (d *Device) SetVector(vector, fd int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.open(); err != nil {
		return err
	}
	v := &d.vectors
	if !v.active || v.kind == INTx {
		return fmt.Errorf("set vector %d of %s: MSI and MSI-X are off", vector, d.node.Name)
	}
	info := d.irqs[v.kind]
	if vector < 0 || vector >= info.Count {
		return fmt.Errorf("set vector %d of %v of %s, which has %d", vector, v.kind, d.node.Name, info.Count)
	}
	if vector >= len(v.fds) && info.NoResize {
		return d.grow(vector, fd)
	}
	if vector < len(v.fds) && v.fds[vector] == fd && fd < 0 {
		return nil
	}
	_, err := d.setIRQs(v.kind, triggerByFD, vector, 1, fd)
	for len(v.fds) <= vector {
		v.fds = append(v.fds, -1)
	}
	if v.fds[vector] = fd; err != nil {
		v.fds[vector] = -1 // the kernel takes the old one away first
	}
	return err
}

// grow enables all vectors up to a new one. If that fails it goes back to what was.
func (d *Device) grow(vector, fd int) error {
	kind, old := d.vectors.kind, d.vectors.fds
	fds := slices.Clone(old)
	for len(fds) <= vector {
		fds = append(fds, -1)
	}
	fds[vector] = fd
	if err := d.disable(); err != nil {
		return err
	}
	err := d.enable(kind, fds)
	if err != nil {
		err = errors.Join(err, d.enable(kind, old))
	}
	return err
}

// Vectors returns how many vectors of MSI or MSI-X are allocated on the host.
func (d *Device) Vectors() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.vectors.kind == INTx {
		return 0
	}
	return len(d.vectors.fds)
}

// EnableINTx switches to the wired interrupt, which signals the eventfd trigger and is masked
// by the kernel each time. It is left masked: the caller connects the eventfds with KVM, then
// calls SetUnmask and UnmaskINTx.
func (d *Device) EnableINTx(trigger int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.open(); err != nil {
		return err
	}
	if d.irqs[INTx].Count == 0 {
		return fmt.Errorf("enable INTx of %s, which has none", d.node.Name)
	}
	if err := d.disable(); err != nil {
		return err
	}
	if err := d.enable(INTx, []int{trigger}); err != nil {
		return err
	}
	if !d.irqs[INTx].Maskable {
		return nil
	}
	if _, err := d.setIRQs(INTx, vfio.IRQSetDataNone|vfio.IRQSetActionMask, 0, 1); err != nil {
		return errors.Join(err, d.disable())
	}
	return nil
}

// SetUnmask makes an eventfd unmask the wired interrupt, -1: none. It is the resampling
// eventfd of the trigger's irqfd.
func (d *Device) SetUnmask(fd int) error {
	return d.intx(vfio.IRQSetDataEventFD|vfio.IRQSetActionUnmask, fd)
}

// MaskINTx masks the wired interrupt.
func (d *Device) MaskINTx() error { return d.intx(vfio.IRQSetDataNone | vfio.IRQSetActionMask) }

// UnmaskINTx unmasks the wired interrupt. If the device asserts it, it comes at once.
func (d *Device) UnmaskINTx() error { return d.intx(vfio.IRQSetDataNone | vfio.IRQSetActionUnmask) }

func (d *Device) intx(flags uint32, fds ...int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.open(); err != nil {
		return err
	}
	if !d.vectors.active || d.vectors.kind != INTx {
		return fmt.Errorf("INTx of %s is off", d.node.Name)
	}
	_, err := d.setIRQs(INTx, flags, 0, 1, fds...)
	return err
}

// DisableIRQs switches INTx, MSI or MSI-X off, whichever is on.
func (d *Device) DisableIRQs() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.open(); err != nil {
		return err
	}
	return d.disable()
}

// disable switches off what is on; with INTx the kernel forgets the unmasking eventfd too.
func (d *Device) disable() error {
	if !d.vectors.active {
		return nil
	}
	kind := d.vectors.kind
	d.vectors = vectors{}
	_, err := d.setIRQs(kind, triggerNone, 0, 0)
	return err
}

// Notify makes Err or Req signal an eventfd, -1: none.
func (d *Device) Notify(kind IRQ, fd int) error {
	if kind != Err && kind != Req {
		return fmt.Errorf("%v is no notification", kind)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.open(); err != nil {
		return err
	}
	return d.notify(kind, fd)
}

func (d *Device) notify(kind IRQ, fd int) error {
	if d.irqs[kind].Count == 0 {
		return fmt.Errorf("%s has no %v", d.node.Name, kind)
	}
	if _, err := d.setIRQs(kind, triggerByFD, 0, 1, fd); err != nil {
		return err
	}
	d.notified[kind] = fd >= 0
	return nil
}

// quiet switches everything off.
func (d *Device) quiet() error {
	errs := []error{d.disable()}
	for _, kind := range []IRQ{Err, Req} {
		if d.notified[kind] {
			errs = append(errs, d.notify(kind, -1))
		}
	}
	return errors.Join(errs...)
}
