package vmm

import (
	"errors"
	"fmt"
	"io"

	"github.com/stile-vmm/stile/devices/backend/share"
	"github.com/stile-vmm/stile/devices/legacy"
	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/layout"
	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// devices is everything on the VM's buses.
type devices struct {
	board *legacy.Board
	root  *pci.Root
	agent *virtio.Port // nil without AgentPort
	hvc   io.Writer    // input of virtio's console, nil without one
	slots []int        // of the host's devices, in their order
	disks []attached   // in the order of Config.Disks

	balloon *virtio.Balloon // nil without one
	cid     uint64          // in the host's AF_VSOCK, 0 without

	transports []*virtio.Transport
	folders    []folder
	pool       *share.Pool       // of their descriptors
	left       []<-chan struct{} // folders that hold their requests up; each is closed once it has answered
	// leftTransports are theirs.
	leftTransports []*virtio.Transport
	closers        []io.Closer  // what stands behind devices; closed after the transports
	config         *sys.Mapping // PCI config space as the guest reads it; unmapped after the VM
}

// newDevices builds the devices of v's Config and puts them onto its buses. What it
// returns is to be closed, also after an error.
func (v *VM) newDevices() (*devices, error) {
	d := &devices{}
	irqs := interrupts{v.vm}
	var err error
	d.board, err = legacy.New(legacy.Options{Ports: &v.ports, IRQ: irqs, Notify: v.notify, Serial: v.console})
	if err != nil {
		return d, err
	}
	if err := d.addRoot(v, irqs); err != nil {
		return d, err
	}
	if !v.cfg.NoConsole {
		if err := d.addConsole(v, irqs); err != nil {
			return d, err
		}
	}
	if !v.cfg.NoRNG {
		if err := d.add(v, irqs, "rng", virtio.NewRNG()); err != nil {
			return d, err
		}
	}
	for _, add := range []func(*VM, interrupts) error{d.addDisks, d.addVsock, d.addBalloon} {
		if err := add(v, irqs); err != nil {
			return d, err
		}
	}
	for _, s := range v.cfg.Shares {
		if err := d.addShare(v, irqs, s); err != nil {
			return d, err
		}
	}
	for i := range v.cfg.Nets {
		if err := d.addNet(v, irqs, i); err != nil {
			return d, err
		}
	}
	var passed []*pci.Function
	for _, h := range v.host.devices {
		passed = append(passed, h.function.PCI())
		slot, err := d.root.Add(-1, 0, h.function.PCI())
		if err != nil {
			return d, fmt.Errorf("device %s: %w", h.node.Name, err)
		}
		d.slots = append(d.slots, slot)
	}
	if err := d.root.Assign(passed...); err != nil {
		return d, err
	}
	if v.cfg.Input != nil {
		go d.feed(v.cfg.Input)
	}
	return d, nil
}

// start connects the interrupts of the host's devices, which takes an interrupt controller.
func (d *devices) start(h *hostDevices) error {
	for i, dev := range h.devices {
		if err := h.step(dev, "interrupts", func() error { return dev.function.Start(d.slots[i]) }); err != nil {
			return fmt.Errorf("device %s: %w", dev.node.Name, err)
		}
	}
	return nil
}

// feedSize is how much input is read at a time, in bytes.
const feedSize = 4096

// feed passes input to the serial line until the input or the board ends. After a reset it waits
// for the next driver.
func (d *devices) feed(input io.Reader) {
	buf := make([]byte, feedSize)
	for d.board.UART.AwaitReader() {
		n, err := input.Read(buf)
		if n > 0 && d.board.UART.AwaitReader() {
			_, _ = d.board.UART.Input().Write(buf[:n]) // fails when the board ends, and so does the wait
		}
		if err != nil {
			return
		}
	}
}

func (d *devices) addRoot(v *VM, irqs interrupts) error {
	o := pci.Options{Memory: &v.memory, Ports: &v.ports, Mapper: v.slots, IRQ: irqs, MMIO64: v.window, NoPorts: true, Warn: v.deviceWarning}
	if v.vm.CheckExtension(uapi.CapReadonlyMem) > 0 {
		config, err := sys.MapAnonymous(layout.ECAMSize)
		if err != nil {
			return err
		}
		d.config = config
		o.Config, o.ConfigAddr = config.Bytes(), config.Addr()
	}
	var err error
	d.root, err = pci.NewRoot(o)
	return err
}

func (d *devices) addConsole(v *VM, irqs interrupts) error {
	var ports []string
	if v.cfg.AgentPort {
		ports = append(ports, agentproto.PortName)
	}
	console := virtio.NewConsole(virtio.ConsoleOptions{Output: v.console, Ports: ports})
	d.agent, d.hvc = console.Port(agentproto.PortName), console.Input()
	d.closers = append(d.closers, console)
	return d.add(v, irqs, "console", console)
}

// add puts a virtio device onto the bus.
func (d *devices) add(v *VM, irqs interrupts, name string, dev virtio.Device) error {
	t, err := virtio.New(dev, virtio.Options{Name: name, Memory: v.mem, IRQ: irqs, Notice: v.notice})
	if err != nil {
		return err
	}
	d.transports = append(d.transports, t)
	if _, err := d.root.Add(-1, 0, t.Function()); err != nil {
		return fmt.Errorf("virtio %s: %w", name, err)
	}
	return nil
}

// notify takes what the guest did to its power.
func (v *VM) notify(e legacy.Event) {
	switch e.Kind {
	case legacy.PowerOff:
		v.end(Result{Reason: PowerOff})
	case legacy.Reset:
		v.end(Result{Reason: Reset})
	case legacy.Panic:
		v.end(Result{Reason: Panic})
	case legacy.DebugExit:
		v.end(Result{Reason: DebugExit, Code: int(e.Value)})
	}
}

// close takes the devices off the buses and frees them. No vCPU may be running.
func (d *devices) close() error {
	var errs []error
	if d.agent != nil {
		errs = append(errs, d.agent.Close())
	}
	if d.root != nil {
		d.root.Close()
	}
	for _, f := range d.folders {
		errs = append(errs, f.close(d))
	}
	d.folders = nil
	for _, t := range d.transports {
		if !d.isLeft(t) {
			errs = append(errs, t.Close())
		}
	}
	for _, c := range d.closers {
		errs = append(errs, c.Close())
	}
	if d.board != nil {
		errs = append(errs, d.board.Close())
	}
	return errors.Join(errs...)
}
