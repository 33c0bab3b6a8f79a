package vfio

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/internal/uapi/iommufd"
	"github.com/stile-vmm/stile/internal/uapi/vfio"
	"golang.org/x/sys/unix"
)

// fakeKernel behaves as Linux 6.12 does (drivers/vfio, drivers/iommu/iommufd), and fails
// where a test wants it to.
type fakeKernel struct {
	t       *testing.T
	mu      sync.Mutex // held by each call
	nextFD  int
	files   map[int]*fakeFile
	devices []*fakeDevice
	// fail has the errno of a call by its name in C, or of "open PATH".
	fail map[string]unix.Errno
	// trace is what was called, in order.
	trace []string

	ranges    []vfio.IOVARange
	avail     int
	noUnmap   bool // no VFIO_UNMAP_ALL
	notViable bool
	answers   map[string]int // what calls return, where it is not 0
}

type fakeFile struct {
	kernel    *fakeKernel
	path      string
	fd        int
	device    *fakeDevice // of a device
	group     int         // of a group
	container *fakeFile   // of a group
	typed     bool        // of a container
	members   int         // of a container, an iommufd: groups, devices
	iommu     *fakeFile   // of a device
	attached  bool
	maps      [][2]uint64 // of a container, an iommufd
}

// fakeDevice is a device of which all is data.
type fakeDevice struct {
	node    Node
	flags   uint32
	regions map[uint32][]byte // what GET_REGION_INFO gives
	memory  map[uint32][]byte // what the region has
	irqs    map[uint32]vfio.IRQInfo
	hot     []byte // what GET_PCI_HOT_RESET_INFO gives
	active  int    // kind of interrupt in use, -1 for none
	fds     map[uint32][]int
	masked  bool
	unmask  int
	resets  int
	busy    int         // attempts to open it that fail
	sriov   bool        // a physical function
	pf      *fakeDevice // of a virtual one, where that has a VFIO driver
	token   string      // of a physical one
}

const fakeRegionShift = 40

func newFakeKernel(t *testing.T, devices ...*fakeDevice) *fakeKernel {
	k := &fakeKernel{t: t, nextFD: 100, files: make(map[int]*fakeFile), devices: devices, fail: make(map[string]unix.Errno), avail: 65535,
		answers: make(map[string]int), ranges: []vfio.IOVARange{{Start: 0, End: 0xfedfffff}, {Start: 0xfef00000, End: 1<<39 - 1}}}
	t.Cleanup(func() {
		for fd, f := range k.files {
			t.Errorf("left open: %s (descriptor %d)", f.path, fd)
		}
	})
	return k
}

// fakePCI returns a device with a BAR of 8 KiB and an MSI-X table.
func fakePCI(name string, group int) *fakeDevice {
	d := &fakeDevice{
		node:    Node{Name: name, Group: group, Cdev: "/dev/vfio/devices/" + name},
		flags:   vfio.DevicePCI | vfio.DeviceCanReset,
		regions: map[uint32][]byte{},
		memory:  map[uint32][]byte{0: make([]byte, 8192), vfio.ConfigRegion: make([]byte, 4096)},
		irqs: map[uint32]vfio.IRQInfo{
			vfio.INTxIRQ: {Flags: vfio.IRQEventFD | vfio.IRQMaskable | vfio.IRQAutoMasked, Count: 1},
			vfio.MSIIRQ:  {Flags: vfio.IRQEventFD | vfio.IRQNoResize, Count: 4},
			vfio.MSIXIRQ: {Flags: vfio.IRQEventFD, Count: 8},
			vfio.ErrIRQ:  {Flags: vfio.IRQEventFD | vfio.IRQNoResize, Count: 1},
			vfio.ReqIRQ:  {Flags: vfio.IRQEventFD | vfio.IRQNoResize, Count: 1},
		},
		active: -1, unmask: -1, fds: map[uint32][]int{},
	}
	for i, mem := range d.memory {
		flags := uint32(vfio.RegionRead | vfio.RegionWrite)
		if i <= vfio.BAR5Region {
			flags |= vfio.RegionMmap
		}
		d.regions[i] = bytesOf(&vfio.RegionInfo{Flags: flags, Index: i, Size: uint64(len(mem)), Offset: uint64(i) << fakeRegionShift})
	}
	return d
}

func (k *fakeKernel) note(format string, args ...any) {
	k.trace = append(k.trace, fmt.Sprintf(format, args...))
}

// since returns what was called after the first n calls, without queries.
func (k *fakeKernel) since(n int) string {
	var calls []string
	for _, c := range k.trace[n:] {
		if !strings.Contains(c, "GET_I") && !strings.Contains(c, "INFO") && !strings.Contains(c, "EXTENSION") &&
			!strings.Contains(c, "RANGES") && !strings.Contains(c, "STATUS") {
			calls = append(calls, c)
		}
	}
	return strings.Join(calls, ", ")
}

func (k *fakeKernel) find(match func(*fakeDevice) bool) *fakeDevice {
	i := slices.IndexFunc(k.devices, match)
	if i < 0 {
		return nil
	}
	return k.devices[i]
}

func (k *fakeKernel) access(path string) error {
	if errno, ok := k.fail["open "+path]; ok {
		return &os.PathError{Op: "access", Path: path, Err: errno}
	}
	return nil
}

func (k *fakeKernel) open(path string) (file, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.note("open %s", path)
	if errno, ok := k.fail["open "+path]; ok {
		return nil, &os.PathError{Op: "open", Path: path, Err: errno}
	}
	f := &fakeFile{kernel: k, path: path, group: -1}
	switch {
	case path == containerPath, path == iommuPath:
	default:
		f.device = k.find(func(d *fakeDevice) bool { return d.node.Cdev == path })
		if f.device == nil {
			d := k.find(func(d *fakeDevice) bool { return d.node.groupPath() == path })
			if d == nil {
				return nil, &os.PathError{Op: "open", Path: path, Err: unix.ENOENT}
			}
			f.group = d.node.Group
			for _, o := range k.files {
				if o.group == f.group && o.device == nil {
					return nil, &os.PathError{Op: "open", Path: path, Err: unix.EBUSY}
				}
			}
		}
	}
	return k.insert(f), nil
}

func (k *fakeKernel) insert(f *fakeFile) *fakeFile {
	f.fd = k.nextFD
	k.nextFD++
	k.files[f.fd] = f
	return f
}

func (k *fakeKernel) adopt(fd int, name string) file {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.files[fd]
}

func (f *fakeFile) Int() int { return f.fd }

func (f *fakeFile) Close() error {
	k := f.kernel
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.files[f.fd] != f {
		k.t.Errorf("%s is closed twice", f.path)
	}
	delete(k.files, f.fd)
	k.note("close %s", f.path)
	if f.iommu != nil {
		f.iommu.members--
	}
	f.leaveContainer()
	return nil
}

func (f *fakeFile) leaveContainer() {
	if f.container == nil {
		return
	}
	if f.container.members--; f.container.members == 0 {
		f.container.typed, f.container.maps = false, nil
	}
	f.container = nil
}

func (f *fakeFile) mmap(off int64, n, prot int, align, phase uint64) (*sys.Mapping, error) {
	f.kernel.mu.Lock()
	defer f.kernel.mu.Unlock()
	f.kernel.note("mmap %#x %#x %d at %#x modulo %#x", off, n, prot, phase, align)
	if errno, ok := f.kernel.fail["mmap"]; ok {
		return nil, errno
	}
	return sys.MapAnonymous(n)
}

func (f *fakeFile) io(p []byte, off int64, write bool) (int, error) {
	f.kernel.mu.Lock()
	defer f.kernel.mu.Unlock()
	if errno, ok := f.kernel.fail["io"]; ok {
		return 0, errno
	}
	mem := f.device.memory[uint32(off>>fakeRegionShift)]
	off &= 1<<fakeRegionShift - 1
	p = p[:min(len(p), 3)] // not all at once
	if write {
		return copy(mem[off:], p), nil
	}
	return copy(p, mem[off:]), nil
}

func (f *fakeFile) pread(p []byte, off int64) (int, error)  { return f.io(p, off, false) }
func (f *fakeFile) pwrite(p []byte, off int64) (int, error) { return f.io(p, off, true) }

func (f *fakeFile) control(c call, arg uintptr) (int, error) {
	f.kernel.mu.Lock()
	defer f.kernel.mu.Unlock()
	f.kernel.note("%s", c.name)
	if errno, ok := f.kernel.fail[c.name]; ok {
		return -1, errno
	}
	switch c {
	case callCheckExtension:
		if arg == vfio.UnmapAll && f.kernel.noUnmap {
			return 0, nil
		}
		if n, ok := f.kernel.answers[c.name]; ok {
			return n, nil
		}
		return 1, nil
	case callSetIOMMU:
		if f.members == 0 || f.typed {
			return -1, unix.EINVAL
		}
		f.typed = true
	case callUnsetContainer:
		if f.container == nil {
			return -1, unix.EINVAL
		}
		f.leaveContainer()
	case callReset:
		f.device.resets++
		if n := f.kernel.answers[c.name]; f.device.resets <= n {
			return -1, unix.EAGAIN
		}
	}
	if c == callGetAPIVersion {
		return f.kernel.answers[c.name], nil
	}
	return 0, nil
}

func (f *fakeFile) controlBytes(c call, arg []byte) (int, error) {
	f.kernel.mu.Lock()
	defer f.kernel.mu.Unlock()
	f.kernel.note("%s", c.name)
	if errno, ok := f.kernel.fail[c.name]; ok {
		return -1, errno
	}
	if n, ok := f.kernel.answers[c.name]; ok {
		return n, nil
	}
	if f.device != nil {
		return f.deviceCall(c, arg)
	}
	var err error
	switch c {
	case callGroupStatus:
		if !f.kernel.notViable {
			binary.NativeEndian.PutUint32(arg[4:], vfio.GroupViable)
		}
	case callSetContainer:
		f.container = f.kernel.files[int(binary.NativeEndian.Uint32(arg))]
		f.container.members++
	case callGetDeviceFD:
		return f.deviceFD(strings.TrimRight(string(arg), "\x00"))
	case callGetIOMMUInfo:
		f.iommuInfo(arg)
	case callMapDMA:
		m, _ := decode[vfio.DMAMap](arg)
		err = f.mapRange(m.IOVA, m.Size, f.typed)
	case callUnmapDMA:
		m, _ := decode[vfio.DMAUnmap](arg)
		if m.Flags&vfio.UnmapFlagAll != 0 {
			f.maps = nil
			return 0, nil
		}
		err = f.unmapRange(m.IOVA, m.Size)
	case callIOASAlloc:
		binary.NativeEndian.PutUint32(arg[8:], 7)
	case callIOASMap:
		m, _ := decode[iommufd.IOASMapArg](arg)
		err = f.mapRange(m.IOVA, m.Length, true)
	case callIOASUnmap:
		m, _ := decode[iommufd.IOASUnmapArg](arg)
		if m.IOVA == 0 && m.Length == 1<<64-1 {
			f.maps = nil
			return 0, nil
		}
		err = f.unmapRange(m.IOVA, m.Length)
	case callDestroy:
		if f.members > 0 {
			err = unix.EBUSY
		}
	default:
		f.kernel.t.Errorf("%s on %s", c.name, f.path)
	}
	if err != nil {
		return -1, err
	}
	return 0, nil
}

func (f *fakeFile) mapRange(iova, size uint64, translates bool) error {
	if !translates {
		return unix.EINVAL
	}
	for _, m := range f.maps {
		if iova < m[0]+m[1] && m[0] < iova+size {
			return unix.EEXIST
		}
	}
	f.maps = append(f.maps, [2]uint64{iova, size})
	return nil
}

func (f *fakeFile) unmapRange(iova, size uint64) error {
	n := len(f.maps)
	f.maps = slices.DeleteFunc(f.maps, func(m [2]uint64) bool { return m[0] >= iova && m[0]+m[1] <= iova+size })
	if len(f.maps) == n {
		return unix.ENOENT
	}
	return nil
}

func (f *fakeFile) deviceFD(name string) (int, error) {
	if f.container == nil || !f.container.typed {
		return -1, unix.EINVAL
	}
	name, token, _ := strings.Cut(name, " vf_token=")
	d := f.kernel.find(func(d *fakeDevice) bool { return d.node.Name == name && d.node.Group == f.group })
	if d == nil {
		return -1, unix.ENODEV
	}
	if d.busy > 0 {
		d.busy--
		return -1, unix.EAGAIN
	}
	if err := f.kernel.checkToken(d, token); err != nil {
		return -1, err
	}
	o := f.kernel.insert(&fakeFile{kernel: f.kernel, path: "device " + name, device: d, group: f.group, attached: true})
	return o.fd, nil
}

// iommuInfo is struct vfio_iommu_type1_info with the capabilities that type1 has.
func (f *fakeFile) iommuInfo(arg []byte) {
	room := binary.NativeEndian.Uint32(arg)
	ranges := sizeOf[vfio.IOVARangeCap]() + len(f.kernel.ranges)*iovaRangeSize
	info := vfio.IOMMUInfo{Flags: vfio.IOMMUInfoPageSizes, PageSizes: 1<<12 | 1<<21 | 1<<30}
	info.ArgSize = uint32(sizeOf[vfio.IOMMUInfo]() + sizeOf[vfio.DMAAvailCap]() + ranges)
	if len(f.kernel.ranges) > 0 {
		info.Flags |= vfio.IOMMUInfoCaps
	}
	if room < info.ArgSize {
		copy(arg, bytesOf(&info))
		return
	}
	info.CapOffset = uint32(sizeOf[vfio.IOMMUInfo]())
	next := info.CapOffset + uint32(sizeOf[vfio.DMAAvailCap]())
	b := slices.Concat(bytesOf(&info),
		bytesOf(&vfio.DMAAvailCap{Header: vfio.CapHeader{ID: vfio.IOMMUCapDMAAvail, Version: 1, Next: next}, Avail: uint32(f.kernel.avail)}),
		bytesOf(&vfio.IOVARangeCap{Header: vfio.CapHeader{ID: vfio.IOMMUCapIOVARange, Version: 1}, NumRanges: uint32(len(f.kernel.ranges))}))
	for _, r := range f.kernel.ranges {
		b = append(b, bytesOf(&r)...)
	}
	copy(arg, b)
}

func (f *fakeFile) controlVia(c call, arg []byte, at int, mem *sys.Mapping) (int, error) {
	f.kernel.mu.Lock()
	defer f.kernel.mu.Unlock()
	f.kernel.note("%s", c.name)
	if errno, ok := f.kernel.fail[c.name]; ok {
		return -1, errno
	}
	a, _ := decode[iommufd.IOVARangesArg](arg)
	room := int(a.NumIOVAs)
	ranges := f.kernel.ranges
	a.Alignment = 4096
	if f.members == 0 {
		ranges, a.Alignment = []vfio.IOVARange{{End: 1<<64 - 1}}, 1
	}
	a.NumIOVAs = uint32(len(ranges))
	copy(arg, bytesOf(&a))
	for i, r := range ranges[:min(room, len(ranges))] {
		copy(mem.Bytes()[i*iovaRangeSize:], bytesOf(&r))
	}
	if len(ranges) > room {
		return -1, unix.EMSGSIZE
	}
	return 0, nil
}
