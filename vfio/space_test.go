package vfio

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/internal/uapi/vfio"
	"golang.org/x/sys/unix"
)

var backends = []Backend{Legacy, IOMMUFD}

// fakeKVM notes what KVM is told.
type fakeKVM struct {
	kernel *fakeKernel
	err    error
}

func (v fakeKVM) Add(fd int) error {
	v.kernel.mu.Lock()
	defer v.kernel.mu.Unlock()
	v.kernel.note("KVM add %s", v.kernel.files[fd].path)
	return v.err
}

func (v fakeKVM) Remove(fd int) error {
	v.kernel.mu.Lock()
	defer v.kernel.mu.Unlock()
	v.kernel.note("KVM remove %s", v.kernel.files[fd].path)
	return nil
}

func openFake(t *testing.T, k *fakeKernel, b Backend) *Space {
	t.Helper()
	s, err := open(k, b, Options{KVM: fakeKVM{kernel: k}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func attach(t *testing.T, s *Space, n Node) *Device {
	t.Helper()
	d, err := s.Attach(n)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func memory(t *testing.T, n int) []byte {
	t.Helper()
	m, err := sys.MapAnonymous(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m.Bytes()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError fails unless err is there and says all of parts.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
}

// TestOrder holds the calls of a life with one device against the documented order.
func TestOrder(t *testing.T) {
	const dev = "0000:01:00.0"
	want := map[Backend][2]string{
		Legacy: {
			"open /dev/vfio/vfio, VFIO_GET_API_VERSION, open /dev/vfio/7, VFIO_GROUP_SET_CONTAINER, VFIO_SET_IOMMU, " +
				"KVM add /dev/vfio/7, VFIO_GROUP_GET_DEVICE_FD, VFIO_IOMMU_MAP_DMA",
			"VFIO_DEVICE_SET_IRQS, close device 0000:01:00.0, VFIO_IOMMU_UNMAP_DMA, KVM remove /dev/vfio/7, " +
				"VFIO_GROUP_UNSET_CONTAINER, close /dev/vfio/7, close /dev/vfio/vfio",
		},
		IOMMUFD: {
			"open /dev/iommu, IOMMU_IOAS_ALLOC, open /dev/vfio/devices/0000:01:00.0, KVM add /dev/vfio/devices/0000:01:00.0, " +
				"VFIO_DEVICE_BIND_IOMMUFD, VFIO_DEVICE_ATTACH_IOMMUFD_PT, IOMMU_IOAS_MAP",
			"VFIO_DEVICE_SET_IRQS, VFIO_DEVICE_DETACH_IOMMUFD_PT, KVM remove /dev/vfio/devices/0000:01:00.0, " +
				"close /dev/vfio/devices/0000:01:00.0, IOMMU_IOAS_UNMAP, IOMMU_DESTROY, close /dev/iommu",
		},
	}
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			pci := fakePCI(dev, 7)
			k := newFakeKernel(t, pci)
			s := openFake(t, k, b)
			d := attach(t, s, pci.node)
			check(t, s.Map(0, memory(t, 1<<20), Read|Write))
			if diff := cmp.Diff(strings.Split(want[b][0], ", "), strings.Split(k.since(0), ", ")); diff != "" {
				t.Errorf("up: %s", diff)
			}
			check(t, d.EnableMSI(MSIX, []int{5}))
			n := len(k.trace)
			check(t, d.Close())
			check(t, d.Close())
			check(t, s.Close())
			check(t, s.Close())
			if diff := cmp.Diff(strings.Split(want[b][1], ", "), strings.Split(k.since(n), ", ")); diff != "" {
				t.Errorf("down: %s", diff)
			}
		})
	}
}

// TestGroupIsShared attaches three devices of two groups and closes them in another order.
func TestGroupIsShared(t *testing.T) {
	a, b, c := fakePCI("0000:01:00.0", 7), fakePCI("0000:01:00.1", 7), fakePCI("0000:02:00.0", 8)
	k := newFakeKernel(t, a, b, c)
	s := openFake(t, k, Legacy)
	da, db, dc := attach(t, s, a.node), attach(t, s, b.node), attach(t, s, c.node)
	count := func(call string) (n int) {
		for _, c := range k.trace {
			if c == call {
				n++
			}
		}
		return n
	}
	for call, want := range map[string]int{"open /dev/vfio/7": 1, "open /dev/vfio/8": 1, "VFIO_SET_IOMMU": 1, "KVM add /dev/vfio/7": 1,
		"VFIO_GROUP_GET_DEVICE_FD": 3} {
		if n := count(call); n != want {
			t.Errorf("%s: %d times, want %d", call, n, want)
		}
	}
	if _, err := s.Attach(a.node); err == nil {
		t.Error("a device was attached twice")
	}
	check(t, da.Close())
	if count("close /dev/vfio/7") != 0 {
		t.Error("the group was closed under its second device")
	}
	check(t, db.Close())
	if count("close /dev/vfio/7") != 1 {
		t.Error("the group stays open without devices")
	}
	check(t, dc.Close())
}

// TestMapsOutliveGroups: type1 forgets all maps with the last group; the Space does not.
func TestMapsOutliveGroups(t *testing.T) {
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			pci := fakePCI("0000:01:00.0", 7)
			k := newFakeKernel(t, pci)
			s := openFake(t, k, b)
			check(t, s.Map(0, memory(t, 4096), Read)) // before any device
			d := attach(t, s, pci.node)
			check(t, s.Map(0x10000, memory(t, 4096), Read|Write))
			check(t, d.Close())
			check(t, s.Map(0x20000, memory(t, 8192), Write))
			check(t, s.Unmap(0x10000, 4096))
			attach(t, s, pci.node)
			var got [][2]uint64
			for _, f := range k.files {
				got = append(got, f.maps...)
			}
			slices.SortFunc(got, func(a, b [2]uint64) int { return int(a[0]) - int(b[0]) })
			if diff := cmp.Diff([][2]uint64{{0, 4096}, {0x20000, 8192}}, got); diff != "" {
				t.Errorf("the kernel's maps: %s", diff)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			pci := fakePCI("0000:01:00.0", 7)
			k := newFakeKernel(t, pci)
			k.avail = 3
			s := openFake(t, k, b)
			if diff := cmp.Diff(unlimited(), s.Limits()); diff != "" {
				t.Errorf("without devices: %s", diff)
			}
			// More ranges than there is room for at first.
			k.ranges = nil
			for i := range uint64(100) {
				k.ranges = append(k.ranges, vfio.IOVARange{Start: i << 20, End: i<<20 + 0xfffff - 0x1000})
			}
			attach(t, s, pci.node)
			l := s.Limits()
			if len(l.Ranges) != 100 || l.Ranges[99] != (Range{99 << 20, 99<<20 + 0xfefff}) || l.Alignment != 4096 {
				t.Errorf("got %d ranges, alignment %d", len(l.Ranges), l.Alignment)
			}
			if want := map[Backend]int{Legacy: 3, IOMMUFD: -1}[b]; l.Maps != want {
				t.Errorf("%d maps left, want %d", l.Maps, want)
			}
		})
	}
}

// TestEmulatedDeviceIsUnlimited: a container with nothing but emulated mediated devices has
// no IOVA capability.
func TestEmulatedDeviceIsUnlimited(t *testing.T) {
	pci := fakePCI("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", 7)
	k := newFakeKernel(t, pci)
	k.ranges = nil
	s := openFake(t, k, Legacy)
	attach(t, s, pci.node)
	if l := s.Limits(); !l.Contains(Range{0xfee00000, 0xfeefffff}) {
		t.Errorf("limits %+v", l)
	}
}

func TestMapIsRefused(t *testing.T) {
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			pci := fakePCI("0000:01:00.0", 7)
			s := openFake(t, newFakeKernel(t, pci), b)
			attach(t, s, pci.node)
			mem := memory(t, 16384)
			check(t, s.Map(0x10000, mem[:8192], Read))
			for name, test := range map[string]struct {
				iova uint64
				mem  []byte
				prot Prot
				want string
			}{
				"overlap":    {0x11000, mem, Read, "overlaps the map of IOVA 0x10000-0x11fff"},
				"misaligned": {0x20800, mem, Read, "not aligned"},
				"half page":  {0x20000, mem[:2048], Read, "not aligned"},
				"address":    {0x20000, mem[1:4097], Read, "not aligned"},
				"MSI window": {0xfee00000, mem, Read, "0x0-0xfedfffff, 0xfef00000-0x7fffffffff"},
				"too wide":   {1 << 39, mem, Read, "less memory"},
				"wrap":       {1<<64 - 4096, mem, Read, "no range"},
				"empty":      {0x20000, nil, Read, "no range"},
				"protection": {0x20000, mem, 0, "protection"},
			} {
				if err := s.Map(test.iova, test.mem, test.prot); err == nil {
					t.Errorf("%s: no error", name)
				} else if !strings.Contains(err.Error(), test.want) {
					t.Errorf("%s: %q lacks %q", name, err, test.want)
				}
			}
			wantError(t, s.Unmap(0x10000, 4096), "would split")
			wantError(t, s.Unmap(0x30000, 4096), "nothing is mapped")
			wantError(t, s.Unmap(0x30000, 0), "no range")
			check(t, s.Unmap(0, 1<<20))
			check(t, s.Map(0x10000, mem, Read))
		})
	}
}

// TestOneIoctlPerMap counts what the kernel is asked to do.
func TestOneIoctlPerMap(t *testing.T) {
	for b, name := range map[Backend]string{Legacy: "VFIO_IOMMU_MAP_DMA", IOMMUFD: "IOMMU_IOAS_MAP"} {
		pci := fakePCI("0000:01:00.0", 7)
		s := openFake(t, newFakeKernel(t, pci), b)
		d := attach(t, s, pci.node)
		before := s.Stats()
		for i := range uint64(4) {
			check(t, s.Map(i<<20, memory(t, 1<<20), Read|Write))
		}
		after := s.Stats()
		for call, n := range after.IOCTLs {
			if want := map[bool]uint64{true: 4}[call == name]; n-before.IOCTLs[call] != want {
				t.Errorf("%s: %d calls, want %d", call, n-before.IOCTLs[call], want)
			}
		}
		if n := d.Stats().IOCTLs["VFIO_DEVICE_GET_REGION_INFO"]; n != vfio.NumRegions {
			t.Errorf("%d times region info, want %d", n, vfio.NumRegions)
		}
	}
}

func TestPeerMapIsOptional(t *testing.T) {
	pci := fakePCI("0000:01:00.0", 7)
	k := newFakeKernel(t, pci)
	s := openFake(t, k, IOMMUFD)
	attach(t, s, pci.node)
	k.fail["IOMMU_IOAS_MAP"] = unix.EFAULT
	if err := s.MapPeer(0xf0000000, memory(t, 4096)); !errors.Is(err, feature.ErrNotSupported) {
		t.Errorf("got %v", err)
	}
}

// TestAttachUndoesWhatItDid fails each call of an attach in turn; the cleanup of the fake
// kernel finds what stays open, the next attach what stays behind otherwise.
func TestAttachUndoesWhatItDid(t *testing.T) {
	calls := map[Backend][]string{
		Legacy: {"open /dev/vfio/7", "VFIO_GROUP_GET_STATUS", "VFIO_GROUP_SET_CONTAINER", "VFIO_SET_IOMMU", "VFIO_GROUP_GET_DEVICE_FD",
			"VFIO_IOMMU_GET_INFO", "VFIO_IOMMU_MAP_DMA", "VFIO_DEVICE_GET_INFO", "VFIO_DEVICE_GET_REGION_INFO", "VFIO_DEVICE_GET_IRQ_INFO"},
		IOMMUFD: {"open /dev/vfio/devices/0000:01:00.0", "VFIO_DEVICE_BIND_IOMMUFD", "VFIO_DEVICE_ATTACH_IOMMUFD_PT", "IOMMU_IOAS_IOVA_RANGES",
			"VFIO_DEVICE_GET_INFO", "VFIO_DEVICE_GET_REGION_INFO", "VFIO_DEVICE_GET_IRQ_INFO"},
	}
	for _, b := range backends {
		for _, call := range calls[b] {
			t.Run(fmt.Sprint(b, " ", call), func(t *testing.T) {
				pci := fakePCI("0000:01:00.0", 7)
				k := newFakeKernel(t, pci)
				s := openFake(t, k, b)
				check(t, s.Map(0, memory(t, 4096), Read))
				open := len(k.files)
				k.fail[call] = unix.EIO
				if _, err := s.Attach(pci.node); !errors.Is(err, unix.EIO) {
					t.Fatalf("got %v, want EIO", err)
				}
				if len(k.files) != open {
					t.Errorf("%d files are open, were %d", len(k.files), open)
				}
				adds, removes := strings.Count(k.since(0), "KVM add"), strings.Count(k.since(0), "KVM remove")
				if adds != removes {
					t.Errorf("KVM was told of %d files and freed of %d", adds, removes)
				}
				delete(k.fail, call)
				attach(t, s, pci.node)
			})
		}
	}
}

// TestHostTakesDeviceBack: while a close is under way the kernel takes the group out of the
// container, if its last device is being unbound.
func TestHostTakesDeviceBack(t *testing.T) {
	pci := fakePCI("0000:01:00.0", 7)
	k := newFakeKernel(t, pci)
	s := openFake(t, k, Legacy)
	d := attach(t, s, pci.node)
	check(t, s.Map(0, memory(t, 4096), Read))
	k.fail["VFIO_IOMMU_UNMAP_DMA"], k.fail["VFIO_GROUP_UNSET_CONTAINER"] = unix.EINVAL, unix.EINVAL
	check(t, d.Close())
	clear(k.fail)
	attach(t, s, pci.node)
	k.fail["VFIO_GROUP_UNSET_CONTAINER"] = unix.EBUSY
	wantError(t, s.Close(), "still open, or one of its BARs")
}

// TestConcurrentUse attaches, maps and closes from several goroutines.
func TestConcurrentUse(t *testing.T) {
	for _, b := range backends {
		var devices []*fakeDevice
		for i := range 4 {
			devices = append(devices, fakePCI(fmt.Sprintf("0000:01:00.%d", i), 7+i/2))
		}
		k := newFakeKernel(t, devices...)
		s := openFake(t, k, b)
		mem := memory(t, 4096)
		var workers sync.WaitGroup
		for i, d := range devices {
			workers.Go(func() {
				iova := uint64(i) << 20
				for range 20 {
					d, err := s.Attach(d.node)
					if err != nil {
						t.Error(err)
						return
					}
					err = errors.Join(s.Map(iova, mem, Read), d.EnableMSI(MSIX, []int{1}), s.Unmap(iova, 4096), d.Close())
					if err != nil {
						t.Error(err)
					}
					s.Limits()
				}
			})
		}
		workers.Wait()
	}
}

func TestKVMRefuses(t *testing.T) {
	for _, b := range backends {
		pci := fakePCI("0000:01:00.0", 7)
		k := newFakeKernel(t, pci)
		s, err := open(k, b, Options{KVM: fakeKVM{k, unix.EEXIST}})
		check(t, err)
		if _, err := s.Attach(pci.node); !errors.Is(err, unix.EEXIST) {
			t.Errorf("%s: got %v", b, err)
		}
		check(t, s.Close())
	}
}

func TestProbe(t *testing.T) {
	pci, old := fakePCI("0000:01:00.0", 7), fakePCI("0000:02:00.0", 8)
	old.node.Cdev = ""
	for name, test := range map[string]struct {
		fail  map[string]unix.Errno
		nodes []Node
		want  Backend
		err   []string
	}{
		"both":            {nil, []Node{pci.node}, IOMMUFD, nil},
		"no cdev":         {nil, []Node{pci.node, old.node}, Legacy, nil},
		"cdev forbidden":  {map[string]unix.Errno{"open " + pci.node.Cdev: unix.EACCES}, []Node{pci.node}, Legacy, nil},
		"no iommufd":      {map[string]unix.Errno{"open /dev/iommu": unix.ENOENT}, []Node{pci.node}, Legacy, nil},
		"nothing":         {map[string]unix.Errno{"open /dev/iommu": unix.ENOENT, "open /dev/vfio/vfio": unix.ENOENT}, []Node{pci.node}, "", []string{"modprobe vfio-pci", "modprobe iommufd"}},
		"group forbidden": {map[string]unix.Errno{"open /dev/iommu": unix.ENOENT, "open /dev/vfio/7": unix.EACCES}, []Node{pci.node}, "", []string{"run as root"}},
		"VF token":        {nil, []Node{{Name: "x", Group: 7, Cdev: pci.node.Cdev, Token: "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"}}, Legacy, nil},
		"no IOMMU":        {nil, []Node{{Name: "x", Group: -1}}, "", []string{"intel_iommu=on"}},
	} {
		t.Run(name, func(t *testing.T) {
			k := newFakeKernel(t, pci, old)
			k.fail = test.fail
			got, err := probe(k, test.nodes)
			if got != test.want {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
			if test.err != nil {
				wantError(t, err, test.err...)
			}
		})
	}
	k := newFakeKernel(t, old)
	k.answers["VFIO_CHECK_EXTENSION"] = 0
	_, err := probe(k, []Node{old.node})
	wantError(t, err, "modprobe vfio_iommu_type1")
	k.answers["VFIO_GET_API_VERSION"] = 9
	_, err = probe(k, []Node{old.node})
	wantError(t, err, "version 9")
	if _, err := ParseBackend("modern"); err == nil {
		t.Error("ParseBackend takes anything")
	}
}
