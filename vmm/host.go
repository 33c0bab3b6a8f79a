package vmm

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/stile-vmm/stile/devices/passthrough"
	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/layout"
	"github.com/stile-vmm/stile/internal/limit"
	"github.com/stile-vmm/stile/kvm"
	"github.com/stile-vmm/stile/vfio"
)

// hostDevices are the devices of the host that the VM has, and the address space that they do
// DMA in. The zero value has none.
type hostDevices struct {
	notify  *kvm.VFIODevice
	space   *vfio.Space
	devices []*hostDevice
	maps    []DMAMap
}

// hostDevice is one of them.
type hostDevice struct {
	node     vfio.Node
	vfio     *vfio.Device
	function *passthrough.Function
	phases   []Step
	told     bool // the user knows that it can't be reset
}

// step runs fn and notes how long it took.
func (h *hostDevices) step(d *hostDevice, name string, fn func() error) error {
	kernel, begin := h.kernel(), time.Now()
	err := fn()
	took := time.Since(begin)
	d.phases = append(d.phases, Step{name, milliseconds(took), milliseconds(h.kernel() - kernel)})
	return err
}

// kernel returns how long VFIO's calls took so far.
func (h *hostDevices) kernel() time.Duration {
	total := h.space.Stats().Kernel
	for _, d := range h.devices {
		if d.vfio != nil {
			total += d.vfio.Stats().Kernel
		}
	}
	return total
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// open attaches the devices of v's Config. It comes before RAM is placed, which must lie where
// all of them can reach it. What it opened is to be closed, also after an error.
func (h *hostDevices) open(v *VM) error {
	nodes := v.cfg.Devices
	if len(nodes) == 0 {
		return nil
	}
	backend := v.cfg.VFIO
	var err error
	if backend == "" {
		if backend, err = vfio.Probe(nodes...); err != nil {
			return err
		}
	}
	if err := v.checkMemory(backend); err != nil {
		return err
	}
	if h.notify, err = v.vm.CreateVFIODevice(); err != nil {
		return err
	}
	if h.space, err = vfio.Open(backend, vfio.Options{KVM: h.notify, Describe: v.cfg.DescribeDevice}); err != nil {
		return err
	}
	for _, n := range nodes {
		if err := h.attach(v, n); err != nil {
			return fmt.Errorf("device %s: %w", n.Name, err)
		}
	}
	h.resetRest(v)
	for _, d := range h.devices {
		if err := h.step(d, "build", func() error { return d.build(v) }); err != nil {
			return fmt.Errorf("device %s: %w", d.node.Name, err)
		}
	}
	return nil
}

// pins reports whether all of RAM is pinned for the devices: it is for hardware, and not for devices that a driver emulates.
func pins(nodes []vfio.Node) bool {
	return slices.ContainsFunc(nodes, func(n vfio.Node) bool { return !n.Emulated })
}

// checkMemory tells before anything is opened whether all of RAM may be pinned. Where only the drivers of emulated devices may ask for
// that, as those of vendors' GPUs do, the user is told.
func (v *VM) checkMemory(b vfio.Backend) error {
	err := checkMemory(b, &v.cfg)
	if err == nil || pins(v.cfg.Devices) {
		return err
	}
	v.notice(fmt.Sprintf("the drivers of %s may pin memory when the guest uses the devices, and can't pin all: %v", nodeNames(v.cfg.Devices), err))
	return nil
}

func nodeNames(nodes []vfio.Node) string {
	var names []string
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return strings.Join(names, ", ")
}

func checkMemory(b vfio.Backend, c *Config) error {
	if err := vfio.CheckMemlock(b, c.Memory); err != nil {
		return err
	}
	if c.HugePages != "" {
		return nil
	}
	return vfio.CheckMemoryGroup(c.Memory)
}

func (h *hostDevices) attach(v *VM, n vfio.Node) error {
	d := &hostDevice{node: n}
	h.devices = append(h.devices, d)
	return h.step(d, "open", func() error {
		var err error
		d.vfio, err = h.space.Attach(n)
		return err
	})
}

// resetRest resets devices that the kernel could not reset when it opened them, or only through their power state: by their bus,
// if all that is on it is the VM's. Where that fails the user is told.
func (h *hostDevices) resetRest(v *VM) {
	r := vfio.Resetter{Opened: true}
	for _, d := range h.devices {
		if r.Needed(d.vfio) {
			d.noteReset(v, h.step(d, "hot reset", func() error { return r.Reset(d.vfio) }))
		}
	}
}

// noteReset tells the user, once, that a reset was not possible.
func (d *hostDevice) noteReset(v *VM, err error) {
	if err == nil || d.told {
		return
	}
	d.told = true
	why := ""
	if !errors.Is(err, feature.ErrNotSupported) {
		why = " (" + err.Error() + ")"
	}
	v.notice(fmt.Sprintf("%s has no reset that would touch it alone%s: the guest finds it as its last user left it", d.node.Name, why))
}

// build makes the guest's function of the device.
func (d *hostDevice) build(v *VM) error {
	var err error
	irqs := interrupts{v.vm}
	d.function, err = passthrough.New(passthrough.Open(d.vfio), passthrough.Options{
		IRQ: irqs, NewWire: irqs.NewWire,
		Notify: func(e passthrough.Event) { v.deviceEvent(d.node, e) },
		Warn:   func(err error) { v.notice(limit.Explain(err).Error()) },
	})
	return err
}

// deviceEvent ends the VM, or tells the user, as Config says.
func (v *VM) deviceEvent(n vfio.Node, e passthrough.Event) {
	if e == passthrough.DeviceError {
		v.deviceFailed(n)
		return
	}
	text := "the host wants " + n.Name + " back (an unbind, or its removal, waits for this VM)"
	if v.cfg.OnUnplug == Warn {
		v.notice(text)
		return
	}
	r := &Result{Reason: DeviceWanted, Detail: text}
	if !v.leaving.CompareAndSwap(nil, r) {
		return // the kernel asks again and again
	}
	if v.cfg.PowerOff != nil {
		v.notice(text + ": the guest is powered off")
		v.cfg.PowerOff()
	}
	v.end(*r)
}

func (v *VM) deviceFailed(n vfio.Node) {
	text := n.Name + " reported an error that the hardware could not correct (PCIe AER); its state is not to be trusted"
	if v.cfg.OnDeviceError == Warn {
		v.notice(text)
		return
	}
	v.end(Result{Reason: DeviceError, Detail: text})
}

// deviceWarning tells the user what the guest asked of a device and the host could not do, and which limit is behind it.
func (v *VM) deviceWarning(device string, err error) {
	v.notice(fmt.Sprintf("device %s: %v", device, limit.Explain(err)))
}

func (v *VM) notice(text string) {
	if v.cfg.Notice != nil {
		v.cfg.Notice(text)
	}
}

// ram returns where the guest's RAM goes: around what is reserved for the devices.
func (h *hostDevices) ram(size uint64) ([]layout.Range, error) {
	if h.space == nil {
		return layout.RAM(size), nil
	}
	return PlaceRAM(size, h.space.Limits().Ranges)
}

// PlaceRAM returns where size bytes of guest RAM go where devices can only reach usable, which
// ascends.
func PlaceRAM(size uint64, usable []vfio.Range) ([]layout.Range, error) {
	var areas []layout.Range
	for _, r := range usable {
		last := min(r.Last, 1<<63-1) // the guest's addresses end before
		if start := min(r.Start, last); start < last {
			areas = append(areas, layout.Range{Start: start, Size: last - start + 1})
		}
	}
	ranges, rest := layout.RAMWithin(size, areas)
	if rest > 0 {
		return nil, fmt.Errorf("%w: of %s of RAM, %s find no place that the devices' IOMMU can translate (%v); use a smaller --memory",
			ErrConfig, Bytes(size), Bytes(rest), usable)
	}
	return ranges, nil
}

// prefaultNotice is how long bringing RAM into place may take before the user is told.
const prefaultNotice = 2 * time.Second

// mapRAM makes RAM reachable for the devices, with one map for each range.
func (h *hostDevices) mapRAM(ctx context.Context, v *VM, mem *guestmem.Memory) error {
	if h.space == nil {
		return nil
	}
	begin, told := time.Now(), time.Now().Add(prefaultNotice)
	for _, r := range mem.Regions() {
		m := DMAMap{IOVA: r.Start, Size: uint64(len(r.Bytes))}
		err := h.prefault(ctx, v, r.Bytes, func(done int) {
			if now := time.Now(); now.After(told) && done < len(r.Bytes) {
				told = now.Add(prefaultNotice)
				v.notice(fmt.Sprintf("bringing RAM into place: %d of %d MiB at %#x after %.0f s", done>>20, len(r.Bytes)>>20, r.Start, now.Sub(begin).Seconds()))
			}
		})
		if err != nil {
			return err
		}
		m.PrefaultMS = milliseconds(time.Since(begin))
		begin = time.Now()
		if err := h.space.Map(r.Start, r.Bytes, vfio.Read|vfio.Write); err != nil {
			return err
		}
		m.MapMS = milliseconds(time.Since(begin))
		begin = time.Now()
		h.maps = append(h.maps, m)
	}
	return nil
}

// prefault brings memory into place that is going to be pinned.
func (h *hostDevices) prefault(ctx context.Context, v *VM, mem []byte, progress func(done int)) error {
	if !pins(v.cfg.Devices) {
		return nil
	}
	return vfio.Prefault(ctx, mem, runtime.NumCPU(), progress)
}

// wide returns how many bytes of 64-bit BARs the devices have, and how many the largest has.
func (h *hostDevices) wide() (total, largest uint64) {
	for _, d := range h.devices {
		if d.function == nil {
			continue
		}
		all, one := d.function.Wide()
		total, largest = total+all, max(largest, one)
	}
	return total, largest
}

// describe names the devices and the sizes of their 64-bit BARs.
func (h *hostDevices) describe() string {
	var parts []string
	for _, d := range h.devices {
		if all, _ := d.function.Wide(); all > 0 {
			parts = append(parts, fmt.Sprintf("%s has %s", d.node.Name, Bytes(all)))
		}
	}
	return strings.Join(parts, ", ")
}

// quiet ends the devices' interrupts and DMA. No vCPU may be running.
func (h *hostDevices) quiet() error {
	var errs []error
	for _, d := range slices.Backward(h.devices) {
		if d.function != nil {
			errs = append(errs, d.function.Close())
		}
	}
	return errors.Join(errs...)
}

// close closes the devices, which are off the bus, and lets go of RAM.
func (h *hostDevices) close() error {
	var errs []error
	if h.space != nil {
		errs = append(errs, h.space.Close())
	}
	if h.notify != nil {
		errs = append(errs, h.notify.Close())
	}
	return errors.Join(errs...)
}

// Step is a part of what was done, and its length in ms.
type Step struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
	// KernelMS is what of it VFIO's calls took; the rest is this process's own.
	KernelMS float64 `json:"kernel_ms"`
}

// DMAMap is a range of RAM that devices can reach.
type DMAMap struct {
	IOVA       uint64  `json:"iova"`
	Size       uint64  `json:"size"` // bytes
	PrefaultMS float64 `json:"prefault_ms"`
	MapMS      float64 `json:"map_ms"`
}

// Passthrough tells what passing devices through cost.
type Passthrough struct {
	Backend vfio.Backend      `json:"backend"`
	IOCTLs  map[string]uint64 `json:"ioctls"` // of the address space
	Maps    []DMAMap          `json:"maps"`
	Devices []PassedDevice    `json:"devices"`
}

// PassedDevice tells about one of them.
type PassedDevice struct {
	Name   string            `json:"name"`
	Group  int               `json:"group"` // -1 if it is in none
	Slot   int               `json:"slot"`  // on the guest's bus 0
	Attach []Step            `json:"attach"`
	IOCTLs map[string]uint64 `json:"ioctls"`
	passthrough.Stats
}

// Passthrough returns what the devices passed through cost, nil without any. It is to be
// called after Run and before Close.
func (v *VM) Passthrough() *Passthrough {
	h := &v.host
	if h.space == nil {
		return nil
	}
	p := &Passthrough{Backend: h.space.Backend(), IOCTLs: h.space.Stats().IOCTLs, Maps: h.maps}
	for i, d := range h.devices {
		if d.function == nil {
			continue
		}
		p.Devices = append(p.Devices, PassedDevice{
			Name: d.node.Name, Group: d.node.Group, Slot: v.devices.slots[i], Attach: d.phases,
			IOCTLs: d.vfio.Stats().IOCTLs, Stats: d.function.Stats(),
		})
	}
	return p
}
