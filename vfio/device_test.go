package vfio

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/internal/uapi/vfio"
	"golang.org/x/sys/unix"
)

// fakeDeviceIn returns an attached device and the kernel's side of it.
func fakeDeviceIn(t *testing.T, b Backend, change func(*fakeDevice)) (*Device, *fakeDevice, *fakeKernel) {
	t.Helper()
	pci := fakePCI("0000:01:00.0", 7)
	if change != nil {
		change(pci)
	}
	k := newFakeKernel(t, pci)
	return attach(t, openFake(t, k, b), pci.node), pci, k
}

func TestRegionTransfers(t *testing.T) {
	d, pci, k := fakeDeviceIn(t, Legacy, nil)
	data := []byte("eight by")
	if n, err := d.BAR(0).WriteAt(data, 0x100); n != 8 || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	if !bytes.Equal(pci.memory[0][0x100:0x108], data) {
		t.Errorf("the BAR has % x", pci.memory[0][0x100:0x108])
	}
	got := make([]byte, 8)
	if n, err := d.BAR(0).ReadAt(got, 0x100); n != 8 || err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %q, %d, %v", got, n, err)
	}
	for _, off := range []int64{-1, 8192 - 7, 1 << 62} {
		if _, err := d.BAR(0).ReadAt(got, off); err == nil {
			t.Errorf("read at %#x: no error", off)
		}
		if _, err := d.BAR(0).WriteAt(got, off); err == nil {
			t.Errorf("write at %#x: no error", off)
		}
	}
	if _, err := d.BAR(1).ReadAt(got[:1], 0); err == nil {
		t.Error("an absent region can be read")
	}
	k.fail["io"] = unix.EIO
	_, err := d.Config().ReadAt(got, 0)
	wantError(t, err, "region 7 of 0000:01:00.0", "input/output error")
}

func TestRegionAreas(t *testing.T) {
	holes := sparse(vfio.SparseMmapArea{Size: 0x1000}, vfio.SparseMmapArea{Offset: 0x3000, Size: 0x1000})
	d, _, k := fakeDeviceIn(t, Legacy, func(p *fakeDevice) {
		p.regions[1] = region(0x4000, holes, mappableCap())
		p.regions[2] = region(0x100)
		p.regions[4] = region(4 << 30)
		// More capabilities than fit at first.
		var many []vfio.SparseMmapArea
		for i := range uint64(64) {
			many = append(many, vfio.SparseMmapArea{Offset: i * 0x2000, Size: 0x1000})
		}
		p.regions[3] = region(0x100000, sparse(many...))
	})
	if diff := cmp.Diff([]Area{{0, 0x1000}, {0x3000, 0x1000}}, d.BAR(1).Areas()); diff != "" {
		t.Error(diff)
	}
	if !d.BAR(1).MSIXMappable() || d.BAR(0).MSIXMappable() {
		t.Error("MSIXMappable")
	}
	if n := len(d.BAR(3).Areas()); n != 64 {
		t.Errorf("%d areas, want 64", n)
	}
	if d.Config().Areas() != nil || d.ROM().Areas() != nil {
		t.Error("what has no mmap flag has areas")
	}
	for _, a := range []Area{{0, 0x2000}, {0x1000, 0x1000}, {0x3000, 0x1001}, {0x800, 0x800}, {0, 0}, {0x5000, 0x1000}} {
		if _, err := d.BAR(1).Mmap(a); err == nil {
			t.Errorf("area %+v was mapped", a)
		}
	}
	m, err := d.BAR(2).Mmap(d.BAR(2).Areas()[0])
	check(t, err)
	if len(m.Bytes()) != unix.Getpagesize() {
		t.Errorf("a BAR of 256 bytes: %d are mapped", len(m.Bytes()))
	}
	// The rest of a BAR of 4 GiB behind a hole: congruent with the device's own addresses, for large pages.
	_, err = d.BAR(4).Mmap(Area{0x5000, 0x1000})
	check(t, err)
	check(t, d.Close())
	if m.Bytes() != nil {
		t.Error("the device was closed and its BAR is still mapped")
	}
	if _, err := d.BAR(2).Mmap(d.BAR(2).Areas()[0]); err == nil {
		t.Error("a closed device's BAR was mapped")
	}
	for _, want := range []string{"mmap 0x0 0x1000 3 at 0x0 modulo 0x1000", "mmap 0x5000 0x1000 3 at 0x5000 modulo 0x40000000"} {
		if !slices.Contains(k.trace, want) {
			t.Errorf("no %q in %q", want, k.trace)
		}
	}
}

func TestDeviceIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*fakeDevice)
		want   string
	}{
		"not PCI":       {func(p *fakeDevice) { p.flags = 0 }, "not a PCI device"},
		"region loop":   {func(p *fakeDevice) { p.regions[2] = region(0x1000, sparse(vfio.SparseMmapArea{Size: 0x2000})) }, "region 2 of 0000:01:00.0"},
		"no config":     {func(p *fakeDevice) { delete(p.regions, vfio.ConfigRegion) }, "region 7"},
		"many vectors":  {func(p *fakeDevice) { p.irqs[vfio.MSIXIRQ] = vfio.IRQInfo{Count: 5000} }, "5000 interrupts"},
		"endless chain": {func(p *fakeDevice) { p.regions[1] = make([]byte, maxInfo+1) }, "region 1"},
	} {
		pci := fakePCI("0000:01:00.0", 7)
		test.change(pci)
		if pci.regions[1] != nil {
			copy(pci.regions[1], bytesOf(&vfio.RegionInfo{Flags: vfio.RegionCaps, Size: 1 << 62, Offset: 1 << 63}))
		}
		k := newFakeKernel(t, pci)
		s := openFake(t, k, Legacy)
		if _, err := s.Attach(pci.node); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestReset(t *testing.T) {
	d, pci, k := fakeDeviceIn(t, Legacy, nil)
	k.answers["VFIO_DEVICE_RESET"] = 3 // times EAGAIN
	check(t, d.Reset())
	if pci.resets != 4 {
		t.Errorf("%d resets, want 3 that were refused and one", pci.resets)
	}
	k.fail["VFIO_DEVICE_RESET"] = unix.ENOTTY
	wantError(t, d.Reset(), "no reset works", "device_specific: write flr")
	d, _, _ = fakeDeviceIn(t, Legacy, func(p *fakeDevice) { p.flags = vfio.DevicePCI })
	if err := d.Reset(); d.CanReset() || !errors.Is(err, feature.ErrNotSupported) {
		t.Errorf("without reset: %v", err)
	}
}

// affects returns the kernel's answer that a hot reset affects devices.
func affects(flags uint32, devices ...vfio.DependentDevice) []byte {
	b := slices.Clone(bytesOf(&vfio.HotResetInfo{Flags: flags, Count: uint32(len(devices))}))
	for _, d := range devices {
		b = append(b, bytesOf(&d)...)
	}
	return b
}

func TestHotReset(t *testing.T) {
	one, two := vfio.DependentDevice{ID: 7, Bus: 1}, vfio.DependentDevice{ID: 7, Bus: 1, DevFn: 1}
	d, pci, k := fakeDeviceIn(t, Legacy, func(p *fakeDevice) { p.hot = affects(0, one, two) })
	info, err := d.HotResetInfo()
	check(t, err)
	if diff := cmp.Diff([]Affected{{"0000:01:00.0", 7, false}, {"0000:01:00.1", 7, false}}, info.Devices); diff != "" {
		t.Error(diff)
	}
	checkHotReset(t, d)
	if pci.resets != 1 {
		t.Errorf("%d resets", pci.resets)
	}
	pci.hot = affects(0, one, vfio.DependentDevice{ID: 9, Bus: 1, DevFn: 0x0a})
	_, err = d.HotReset()
	wantError(t, err, "0000:01:01.2", "group 9")
	if !errors.Is(err, feature.ErrNotSupported) || pci.resets != 1 {
		t.Errorf("%v, %d resets", err, pci.resets)
	}
	pci.hot = affects(0, slices.Repeat([]vfio.DependentDevice{one}, 100)...)
	if info, err := d.HotResetInfo(); err != nil || len(info.Devices) != 100 {
		t.Errorf("%d devices, %v", len(info.Devices), err)
	}
	pci.hot = nil
	if _, err := d.HotResetInfo(); !errors.Is(err, feature.ErrNotSupported) {
		t.Errorf("no hot reset: %v", err)
	}
	pci.hot = affects(0, one)
	k.fail["VFIO_DEVICE_PCI_HOT_RESET"] = unix.EINVAL
	_, err = d.HotReset()
	wantError(t, err, "no VFIO driver")
}

// checkHotReset resets the bus or slot of d and all that HotResetInfo says.
func checkHotReset(t *testing.T, d *Device) {
	t.Helper()
	info, err := d.HotResetInfo()
	check(t, err)
	affected, err := d.HotReset()
	check(t, err)
	if !slices.Equal(affected, info.Devices) {
		t.Errorf("reset %+v, want %+v", affected, info.Devices)
	}
}

func TestHotResetByDevice(t *testing.T) {
	d, pci, _ := fakeDeviceIn(t, IOMMUFD, func(p *fakeDevice) {
		p.hot = affects(vfio.HotResetDevID|vfio.HotResetDevIDOwned, vfio.DependentDevice{ID: 1, Bus: 1}, vfio.DependentDevice{ID: vfio.DevIDOwned, Bus: 1, DevFn: 1})
	})
	checkHotReset(t, d)
	pci.hot = affects(vfio.HotResetDevID, vfio.DependentDevice{ID: 1, Bus: 1}, vfio.DependentDevice{ID: vfio.DevIDNotOwned, Bus: 1, DevFn: 1})
	_, err := d.HotReset()
	wantError(t, err, "0000:01:00.1")
	if pci.resets != 1 {
		t.Errorf("%d resets", pci.resets)
	}
}

func TestFeature(t *testing.T) {
	d, _, k := fakeDeviceIn(t, Legacy, nil)
	check(t, d.Feature(vfio.FeatureLowPowerEntry, false, true))
	if err := d.Feature(vfio.FeatureMigration, true, false); !errors.Is(err, feature.ErrNotSupported) {
		t.Errorf("got %v", err)
	}
	k.fail["VFIO_DEVICE_FEATURE"] = unix.EOPNOTSUPP // of a driver that leaves the operation out
	if err := d.Feature(vfio.FeatureMigration, true, false); !errors.Is(err, feature.ErrNotSupported) {
		t.Errorf("EOPNOTSUPP: %v", err)
	}
}
