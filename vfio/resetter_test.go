package vfio

import (
	"errors"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/internal/uapi/vfio"
	"golang.org/x/sys/unix"
)

// withReset gives a device a list of capabilities: PM, and PCIe or AF with what their registers say.
func withReset(d *fakeDevice, pm byte, express, af uint32) *fakeDevice {
	cfg := d.memory[vfio.ConfigRegion]
	cfg[regStatus], cfg[regCapPointer] = hasList, 0x40
	copy(cfg[0x40:], []byte{capPM, 0x50, 3, 0, pm})
	copy(cfg[0x50:], []byte{capExpress, 0x90, 2, 0, 0, 0, 0, byte(express >> 24)})
	copy(cfg[0x90:], []byte{capAF, 0, 6, byte(af)})
	return d
}

func TestPowerOnly(t *testing.T) {
	for name, test := range map[string]struct {
		pm          byte
		express, af uint32
		want        bool
	}{
		"PM resets":                      {0, 0, 0, true},
		"PM keeps the state":             {noSoftReset, 0, 0, false},
		"FLR":                            {0, expressFLR, 0, false},
		"AF FLR":                         {0, 0, afFLR, false},
		"AF without pending, not usable": {0, 0, 2, true},
	} {
		d := withReset(fakePCI("0000:01:00.0", 7), test.pm, test.express, test.af)
		if got := powerOnly(d.memory[vfio.ConfigRegion]); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	loop := make([]byte, 256)
	loop[regStatus], loop[regCapPointer], loop[0x40], loop[0x41] = hasList, 0x40, 9, 0x40
	for _, cfg := range [][]byte{nil, make([]byte, 256), loop, loop[:0x41]} {
		if powerOnly(cfg) {
			t.Errorf("%d bytes without PM", len(cfg))
		}
	}
}

// TestResetter: FLR, else the bus, else the power state; and a bus is reset once, also for mediated devices, whose names are no addresses.
func TestResetter(t *testing.T) {
	bus := affects(0, vfio.DependentDevice{ID: 7, Bus: 1}, vfio.DependentDevice{ID: 7, Bus: 1, DevFn: 1}, vfio.DependentDevice{ID: 7, Bus: 1, DevFn: 2})
	flr := withReset(fakePCI("0000:01:00.0", 7), 0, expressFLR, 0)
	power := withReset(fakePCI("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", 7), 0, 0, 0)
	none := fakePCI("83b8f4f2-509f-382f-3c1e-e6bfe0fa1002", 7)
	alone := withReset(fakePCI("0000:02:00.0", 8), 0, 0, 0) // its bus has others
	none.flags = vfio.DevicePCI
	flr.node.Address, power.node.Address, none.node.Address, alone.node.Address = "0000:01:00.0", "0000:01:00.1", "0000:01:00.2", "0000:02:00.0"
	flr.hot, power.hot, none.hot = bus, bus, bus
	alone.hot = affects(0, vfio.DependentDevice{ID: 8, Bus: 2}, vfio.DependentDevice{ID: 99, Bus: 2, DevFn: 1})
	for opened, want := range map[bool]string{
		false: "VFIO_DEVICE_RESET, VFIO_DEVICE_PCI_HOT_RESET, VFIO_DEVICE_RESET",
		true:  "VFIO_DEVICE_PCI_HOT_RESET",
	} {
		k := newFakeKernel(t, flr, power, none, alone)
		s := openFake(t, k, Legacy)
		var devices []*Device
		for _, f := range []*fakeDevice{flr, power, none, alone} {
			devices = append(devices, attach(t, s, f.node))
		}
		begin := len(k.trace)
		r := Resetter{Opened: opened}
		for i, d := range devices {
			if opened && i == 0 && r.Needed(d) || opened && i == 1 && !r.Needed(d) || i == 2 && r.Needed(d) {
				t.Errorf("opened %v, %s: Needed returns %v", opened, d.Name(), r.Needed(d))
			}
			check(t, r.Reset(d))
		}
		if got := k.since(begin); got != want {
			t.Errorf("opened %v: %s, want %s", opened, got, want)
		}
	}
	none.hot = nil
	k := newFakeKernel(t, none)
	d := attach(t, openFake(t, k, Legacy), none.node)
	if err := new(Resetter).Reset(d); !errors.Is(err, feature.ErrNotSupported) {
		t.Errorf("nothing resets it: %v", err)
	}
	none.hot = affects(0, vfio.DependentDevice{ID: 7, Bus: 1})
	k.fail["VFIO_DEVICE_PCI_HOT_RESET"] = unix.EINVAL
	if err := new(Resetter).Reset(d); err == nil || !strings.Contains(err.Error(), "hot reset") && !strings.Contains(err.Error(), "HOT_RESET") {
		t.Errorf("a bus reset that fails: %v", err)
	}
}

// TestRetryAttach: a device of the group that is being reset is waited for, and not for ever.
func TestRetryAttach(t *testing.T) {
	for fails, want := range map[int]error{0: nil, 3: nil, 1000: unix.EBUSY} {
		calls := 0
		_, err := retryAttach(func() (int, error) {
			if calls++; calls <= fails {
				return -1, unix.EBUSY
			}
			return 0, nil
		})
		if !errors.Is(err, want) || calls > busyTries {
			t.Errorf("%d times EBUSY: %v after %d calls", fails, err, calls)
		}
	}
	for _, c := range []call{callAttach, callSetContainer, callSetIOMMU} {
		if c.reason(unix.EBUSY) == "" {
			t.Errorf("%s: EBUSY is not explained", c.name)
		}
	}
}

// TestAttachDuringReset has each of the calls answer EBUSY: they are repeated before the attach fails.
func TestAttachDuringReset(t *testing.T) {
	for name, b := range map[string]Backend{"VFIO_GROUP_SET_CONTAINER": Legacy, "VFIO_SET_IOMMU": Legacy, "VFIO_DEVICE_ATTACH_IOMMUFD_PT": IOMMUFD} {
		pci := fakePCI("0000:01:00.0", 7)
		k := newFakeKernel(t, pci)
		k.fail[name] = unix.EBUSY
		if _, err := openFake(t, k, b).Attach(pci.node); !errors.Is(err, unix.EBUSY) {
			t.Errorf("%s: %v", name, err)
		}
		if n := strings.Count(strings.Join(k.trace, " "), name); n < 2 {
			t.Errorf("%s was issued %d times", name, n)
		}
	}
}
