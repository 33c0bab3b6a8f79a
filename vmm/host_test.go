package vmm

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/devices/passthrough"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/kvm"
	"github.com/stile-vmm/stile/vfio"
)

func TestDeviceFaults(t *testing.T) {
	many := make([]vfio.Node, maxDevices+1)
	for i := range many {
		many[i].Name = string(rune('a' + i))
	}
	for want, c := range map[string]Config{
		"twice":     {Devices: []vfio.Node{{Name: "0000:01:00.0"}, {Name: "0000:01:00.0"}}},
		"at most":   {Devices: many},
		`"type2"`:   {VFIO: "type2"},
		`"perhaps"`: {OnUnplug: "perhaps"},
		`"never"`:   {OnDeviceError: "never"},
		"--balloon": {HugePages: PoolOnly, Balloon: true},
	} {
		c.Kernel, c.Memory = "k", MinMemory
		if err := c.Validate(); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a fault with %s", err, want)
		}
	}
}

func TestPlaceRAM(t *testing.T) {
	vtd := []vfio.Range{{Start: 0, Last: 0xfedfffff}, {Start: 0xfef00000, Last: 1<<39 - 1}}
	ranges, err := PlaceRAM(4<<30, vtd)
	if err != nil || len(ranges) != 2 || ranges[1].End() != 5<<30 {
		t.Errorf("%x, %v", ranges, err)
	}
	if ranges, err = PlaceRAM(1<<30, []vfio.Range{{Start: 0, Last: 1<<64 - 1}}); err != nil || len(ranges) != 1 {
		t.Errorf("%x, %v", ranges, err)
	}
	_, err = PlaceRAM(1<<40, vtd)
	if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "0x7fffffffff") || !strings.Contains(err.Error(), "-m") {
		t.Errorf("got %v", err)
	}
}

// deviceVM is a VM without a machine, which notes what the user is told.
func deviceVM(c Config) (*VM, *[]string) {
	told := new([]string)
	c.Notice = func(text string) { *told = append(*told, text) }
	return &VM{cfg: c, ended: make(chan struct{}), console: newConsole(nil, false, nil)}, told
}

// TestUnplugPolicy: the VM ends when the host wants a device back, in order where the guest can be asked.
func TestUnplugPolicy(t *testing.T) {
	node := vfio.Node{Name: "0000:01:00.0"}
	v, _ := deviceVM(Config{})
	v.deviceEvent(node, passthrough.DeviceWanted)
	if v.result.Reason != DeviceWanted || !strings.Contains(v.result.Detail, node.Name) {
		t.Errorf("result %+v", v.result)
	}
	v, told := deviceVM(Config{OnUnplug: Warn, OnDeviceError: Warn})
	v.deviceEvent(node, passthrough.DeviceWanted)
	v.deviceEvent(node, passthrough.DeviceError)
	if v.result.Reason != "" || len(*told) != 2 {
		t.Errorf("result %+v, told %q", v.result, *told)
	}
	asked := 0
	v, _ = deviceVM(Config{})
	v.cfg.PowerOff = func() {
		asked++
		v.end(Result{Reason: PowerOff}) // as the guest does
	}
	v.deviceEvent(node, passthrough.DeviceWanted)
	v.deviceEvent(node, passthrough.DeviceWanted)
	if v.result.Reason != DeviceWanted || asked != 1 {
		t.Errorf("result %+v, the guest was asked %d times", v.result, asked)
	}
	v, _ = deviceVM(Config{})
	v.deviceEvent(node, passthrough.DeviceError)
	if v.result.Reason != DeviceError || !v.result.Died() {
		t.Errorf("result %+v", v.result)
	}
}

// TestWires: several share a pin, and each may be connected and disconnected again and again.
func TestWires(t *testing.T) {
	testenv.KVM(t)
	system, err := kvm.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer system.Close()
	vm, err := system.CreateVM()
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	if err := vm.CreateIRQChip(); err != nil {
		t.Fatal(err)
	}
	irqs := interrupts{vm}
	if _, err := irqs.NewWire(24); err == nil {
		t.Error("a wire at a pin that is none")
	}
	for range 2 {
		w, err := irqs.NewWire(16)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		for range 2 {
			if err := errors.Join(w.Attach(), w.Attach(), w.Detach(), w.Detach(), w.Attach()); err != nil {
				t.Fatal(err)
			}
		}
		if w.Trigger() == w.Resample() {
			t.Error("one eventfd for both directions")
		}
	}
	w, err := irqs.NewWire(17)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Attach(), w.Close(), w.Close(), w.Detach()); err != nil {
		t.Error(err)
	}
	if w.Attach() == nil {
		t.Error("a closed wire was connected")
	}
}

// TestDeviceWarning: a warning names the device, and the limit behind it with what raises it.
func TestDeviceWarning(t *testing.T) {
	var told []string
	v := &VM{cfg: Config{Notice: func(text string) { told = append(told, text) }}}
	v.deviceWarning("virtio-net", fmt.Errorf("the guest's MSI-X vector 3 stays silent: %w", unix.EMFILE))
	if len(told) != 1 || !strings.HasPrefix(told[0], "device virtio-net: the guest's MSI-X vector 3") || !strings.Contains(told[0], "ulimit -n") {
		t.Errorf("told %q", told)
	}
}

// TestEmulatedAlone: nothing is pinned for devices that drivers emulate, so nothing is brought into place; what they may pin is told.
func TestEmulatedAlone(t *testing.T) {
	emulated, hardware := vfio.Node{Name: "emulated", Emulated: true}, vfio.Node{Name: "hardware"}
	if pins(nil) || pins([]vfio.Node{emulated}) || !pins([]vfio.Node{emulated, hardware}) {
		t.Error("pins does not tell who pins")
	}
	const huge = 1 << 60 // more than any limit, or control group
	v, told := deviceVM(Config{Memory: huge, Devices: []vfio.Node{emulated}})
	if err := v.checkMemory(vfio.Legacy); err != nil {
		t.Errorf("refused: %v", err)
	}
	if limited := checkMemory(vfio.Legacy, &v.cfg) != nil; limited != (len(*told) == 1) {
		t.Errorf("memory is limited: %v, told %q", limited, *told)
	}
	faulted := false
	if err := new(hostDevices).prefault(t.Context(), v, make([]byte, 1<<16), func(int) { faulted = true }); err != nil || faulted {
		t.Errorf("RAM was brought into place: %v", err)
	}
}

// TestNoPeers: that devices can't reach each other is said where two could.
func TestNoPeers(t *testing.T) {
	if text := noPeers([]string{"a"}); text != "" {
		t.Error(text)
	}
	if text := noPeers([]string{"a", "b"}); !strings.Contains(text, "a, b") || !strings.Contains(text, "--vfio legacy") {
		t.Error(text)
	}
}
