package vfio

import (
	"errors"
	"fmt"
	"sync"

	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/internal/uapi/vfio"
	"golang.org/x/sys/unix"
)

// maxRegions bounds how many regions a device may have.
const maxRegions = 64

// Device is an open device of a Space. Methods may be called concurrently; none may be under
// way when Close is called.
type Device struct {
	node     Node
	space    *Space
	file     file
	counter  *counter
	pci      bool
	canReset bool
	byPower  bool // and only through its power state
	regions  []*Region
	irqs     [numIRQs]IRQInfo

	mu       sync.Mutex
	vectors  vectors
	notified [numIRQs]bool // Err and Req that have an eventfd
	mappings []*sys.Mapping
	closed   bool
}

// newDevice reads everything there is to know about the device behind f, which stays the
// caller's if it fails.
func newDevice(s *Space, n Node, f file, c *counter) (*Device, error) {
	d := &Device{node: n, space: s, file: f, counter: c}
	info := vfio.DeviceInfo{ArgSize: uint32(sizeOf[vfio.DeviceInfo]())}
	if _, err := f.controlBytes(callDeviceInfo, bytesOf(&info)); err != nil {
		return nil, callDeviceInfo.fail(n.Name, err)
	}
	d.pci = info.Flags&vfio.DevicePCI != 0
	d.canReset = info.Flags&vfio.DeviceCanReset != 0
	if !d.pci {
		return nil, fmt.Errorf("%s is not a PCI device (flags %#x)", n.Name, info.Flags)
	}
	if info.NumRegions <= vfio.ConfigRegion || info.NumRegions > maxRegions {
		return nil, fmt.Errorf("%s has %d regions, which is no number for a PCI device", n.Name, info.NumRegions)
	}
	for i := range info.NumRegions {
		r, err := d.readRegion(i)
		if err != nil {
			return nil, err
		}
		d.regions = append(d.regions, r)
	}
	if d.canReset {
		if err := d.readPowerOnly(); err != nil {
			return nil, err
		}
	}
	for i := range min(info.NumIRQs, numIRQs) {
		if err := d.readIRQ(IRQ(i)); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Name returns the kernel's name of the device.
func (d *Device) Name() string { return d.node.Name }

// Node returns where the device is.
func (d *Device) Node() Node { return d.node }

// Stats returns the counts of the device's ioctls.
func (d *Device) Stats() Stats { return d.counter.stats() }

// FD returns the device's descriptor, which stays the Device's.
func (d *Device) FD() int { return d.file.Int() }

// Regions returns all regions by index; absent ones have Size 0.
func (d *Device) Regions() []*Region { return d.regions }

// BAR returns the region of BAR i, 0 to 5.
func (d *Device) BAR(i int) *Region { return d.regions[i] }

// ROM returns the region of the expansion ROM.
func (d *Device) ROM() *Region { return d.regions[vfio.ROMRegion] }

// Config returns the region of the configuration space, as the kernel virtualises it.
func (d *Device) Config() *Region { return d.regions[vfio.ConfigRegion] }

// readRegion asks for region i. An absent one has no bytes.
func (d *Device) readRegion(i uint32) (*Region, error) {
	what := fmt.Sprintf("region %d of %s", i, d.node.Name)
	r := &Region{device: d, index: int(i)}
	for size := uint32(256); ; {
		buf := make([]byte, size)
		copy(buf, bytesOf(&vfio.RegionInfo{ArgSize: size, Index: i}))
		_, err := d.file.controlBytes(callRegionInfo, buf)
		if errors.Is(err, unix.EINVAL) && i != vfio.ConfigRegion {
			return r, nil // as for VGA, and what a mediated device does not have
		}
		if err != nil {
			return nil, callRegionInfo.fail(what, err)
		}
		info, caps, err := parseRegion(buf)
		if info.ArgSize <= size || info.ArgSize > maxInfo {
			if err != nil {
				return nil, fmt.Errorf("%s: %w", what, err)
			}
			r.set(info, caps)
			return r, nil
		}
		size = info.ArgSize
	}
}

// Feature tells whether the device has a feature (VFIO_DEVICE_FEATURE_…) that can be read
// (get) or set: nil, or an error that wraps feature.ErrNotSupported.
func (d *Device) Feature(number uint16, get, set bool) error {
	arg := vfio.DeviceFeature{ArgSize: uint32(sizeOf[vfio.DeviceFeature]()), Flags: uint32(number) | vfio.FeatureProbe}
	if get {
		arg.Flags |= vfio.FeatureGet
	}
	if set {
		arg.Flags |= vfio.FeatureSet
	}
	_, err := d.file.controlBytes(callFeature, bytesOf(&arg))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return feature.Missing(fmt.Sprintf("feature %d of %s", number, d.node.Name), "")
	}
	return callFeature.fail(d.node.Name, err)
}

// Close switches the interrupts off, unmaps what Region.Mmap mapped and closes the device.
// The caller has removed its eventfds from KVM and its mappings from the guest's memory.
// Further calls return nil.
func (d *Device) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	errs := []error{d.quiet()}
	for _, m := range d.mappings {
		errs = append(errs, m.Close())
	}
	d.mappings = nil
	d.mu.Unlock()
	return errors.Join(append(errs, d.space.release(d))...)
}
