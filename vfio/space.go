package vfio

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/stile-vmm/stile/internal/feature"
	"golang.org/x/sys/unix"
)

// Files is told of the files that KVM has to know; *kvm.VFIODevice is one. Add comes before
// the device is opened, Remove before the file is closed.
type Files interface {
	Add(fd int) error
	Remove(fd int) error
}

// Options of a Space. The zero value serves.
type Options struct {
	KVM Files // may be nil
	// Describe adds what the caller knows to an error about a device that cannot be had:
	// who holds its group, which drivers have the group's members. May be nil.
	Describe func(Node) string
}

func (o Options) describe(n Node, err error) error {
	if o.Describe == nil {
		return err
	}
	if more := o.Describe(n); more != "" {
		return fmt.Errorf("%w\n%s", err, more)
	}
	return err
}

// addToKVM tells KVM of f.
func (o Options) addToKVM(f file) error {
	if o.KVM == nil {
		return nil
	}
	return o.KVM.Add(f.Int())
}

func (o Options) removeFromKVM(f file) error {
	if o.KVM == nil {
		return nil
	}
	return o.KVM.Remove(f.Int())
}

// backend is one kernel interface. Space serialises its calls.
type backend interface {
	// attach opens n's device. Its ioctls go to c.
	attach(n Node, c *counter) (file, error)
	// detach closes the device that attach opened.
	detach(n Node, f file) error
	// translates reports whether maps reach the kernel now.
	translates() bool
	limits() (Limits, error)
	mapDMA(m mapping) error
	// unmapDMA unmaps the whole maps in size bytes at iova.
	unmapDMA(iova, size uint64) error
	// hotReset resets the devices of r, among them the one behind f.
	hotReset(f file, r HotReset) error
	close() error
}

// Space is the DMA address space of a VM. Methods may be called concurrently.
type Space struct {
	kind    Backend
	counter *counter

	mu      sync.Mutex
	backend backend
	lim     Limits
	maps    mapList
	devices []*Device
	closed  bool
}

// Open makes an empty Space. It opens the container or the iommufd, no device.
func Open(b Backend, o Options) (*Space, error) { return open(hostKernel{}, b, o) }

func open(k kernel, b Backend, o Options) (*Space, error) {
	s := &Space{kind: b, counter: newCounter(), lim: unlimited()}
	var err error
	switch b {
	case Legacy:
		s.backend, err = newContainer(k, o, s.counter)
	case IOMMUFD:
		s.backend, err = newIOAS(k, o, s.counter)
	default:
		_, err = ParseBackend(string(b))
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Backend returns the kernel interface that is used.
func (s *Space) Backend() Backend { return s.kind }

// Stats returns the counts of the Space's own ioctls, without those of devices.
func (s *Space) Stats() Stats { return s.counter.stats() }

// Limits returns what can be mapped with the devices that are attached: more devices can
// narrow it. With none it is everything.
func (s *Space) Limits() Limits {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lim
	l.Ranges = slices.Clone(l.Ranges)
	return l
}

// Attach opens a device and puts it into the Space. What is mapped, the device can reach
// from then on; the kernel has reset the device, if it can be, and lets it not master the bus.
func (s *Space) Attach(n Node) (*Device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("attach %s: the DMA address space is closed", n.Name)
	}
	for _, d := range s.devices {
		if d.node.Name == n.Name {
			return nil, fmt.Errorf("attach %s: it is attached already", n.Name)
		}
	}
	c := newCounter()
	live := s.backend.translates()
	f, err := s.backend.attach(n, c)
	if err != nil {
		return nil, err
	}
	d, err := s.complete(n, f, c, !live)
	if err != nil {
		return nil, errors.Join(err, s.backend.detach(n, f))
	}
	s.devices = append(s.devices, d)
	return d, nil
}

// complete makes a Device of f. replay: the kernel does not have the maps yet.
func (s *Space) complete(n Node, f file, c *counter, replay bool) (*Device, error) {
	lim, err := s.backend.limits()
	if err != nil {
		return nil, err
	}
	if replay && s.backend.translates() {
		for _, m := range s.maps {
			if err := lim.check(m); err != nil {
				return nil, err
			}
			if err := s.backend.mapDMA(m); err != nil {
				return nil, err
			}
		}
	}
	d, err := newDevice(s, n, f, c)
	if err != nil {
		return nil, err
	}
	s.lim = lim
	return d, nil
}

// release closes a device that Attach opened.
func (s *Space) release(d *Device) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.devices = slices.DeleteFunc(s.devices, func(o *Device) bool { return o == d })
	err := s.backend.detach(d.node, d.file)
	lim, limErr := s.backend.limits()
	if limErr == nil {
		s.lim = lim
	}
	return errors.Join(err, limErr)
}

// Map lets devices reach mem at iova, which is a guest-physical address for a VM's RAM. It
// is one ioctl, which pins all of mem and takes long where memory is not in place yet. mem
// lies outside the Go heap and stays mapped in the process until Unmap or Close.
//
// Private memory that nothing has written to yet must not be mapped for reading only: before
// Linux 6.2 devices would go on reading zeroes after it is written to.
func (s *Space) Map(iova uint64, mem []byte, p Prot) error {
	m := mapping{iova, mem, p}
	if len(mem) == 0 || m.last() < iova || p == 0 || p&^(Read|Write) != 0 {
		return fmt.Errorf("map %d bytes at IOVA %#x with protection %d: no range or no such protection", len(mem), iova, p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("map %v: the DMA address space is closed", m)
	}
	if err := s.maps.fits(m); err != nil {
		return err
	}
	if s.backend.translates() {
		if err := s.lim.check(m); err != nil {
			return err
		}
		if err := s.backend.mapDMA(m); err != nil {
			return err
		}
	}
	s.maps = s.maps.with(m)
	return nil
}

// MapPeer is Map for a mapped BAR (Region.Mmap), so that other devices reach it. Not all
// backends, devices and IOMMUs can: the error then wraps feature.ErrNotSupported, and only
// DMA between devices is lost.
func (s *Space) MapPeer(iova uint64, bar []byte) error {
	err := s.Map(iova, bar, Read|Write)
	if errors.Is(err, unix.EFAULT) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("peer-to-peer DMA: %w: %w", feature.ErrNotSupported, err)
	}
	return err
}

// Unmap takes back the maps that lie in size bytes at iova. It fails, and changes nothing, if
// there is none or if one sticks out.
func (s *Space) Unmap(iova, size uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest, err := s.maps.without(iova, size)
	if err != nil {
		return err
	}
	if s.backend.translates() {
		if err := s.backend.unmapDMA(iova, size); err != nil {
			return err
		}
	}
	s.maps = rest
	return nil
}

// Close closes the devices that are still attached, the latest first, unmaps everything and
// closes the container or the iommufd. Further calls return nil.
func (s *Space) Close() error {
	devices, first := s.shut()
	if !first {
		return nil
	}
	var errs []error
	for _, d := range slices.Backward(devices) {
		errs = append(errs, d.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.maps = nil
	return errors.Join(append(errs, s.backend.close())...)
}

// shut lets nothing more in. It returns the attached devices, and whether it is the first.
func (s *Space) shut() (devices []*Device, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first = !s.closed
	s.closed = true
	return slices.Clone(s.devices), first
}
