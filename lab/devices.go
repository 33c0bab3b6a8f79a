package lab

import (
	"fmt"
	"os"
	"strings"
)

// kind says how QEMU makes a device.
type kind struct {
	driver string   // QEMU's name of it
	fixed  []option // properties that every one has
	// late devices are plugged in after the state is loaded: QEMU can't save them.
	late    bool
	storage bool // has a size
	disk    bool // has a -drive
	net     bool // has a -netdev
}

var (
	noROM       = option{"romfile", ""} // the files may not be installed
	modern      = option{"disable-legacy", "on"}
	behindIOMMU = option{"iommu_platform", true}
)

var kinds = map[Kind]kind{
	EDU:       {driver: "edu"},
	NVMe:      {driver: "nvme", late: true, storage: true, disk: true},
	E1000E:    {driver: "e1000e", fixed: []option{noROM}, net: true},
	VirtioNet: {driver: "virtio-net-pci", fixed: []option{modern, behindIOMMU, noROM}, net: true},
	VirtioBlk: {driver: "virtio-blk-pci", fixed: []option{modern, behindIOMMU}, storage: true, disk: true},
	IVShmem:   {driver: "ivshmem-plain", late: true, storage: true},
	TestDev:   {driver: "pci-testdev"},
}

// part is a device with its place in QEMU's machine.
type part struct {
	Device
	kind
	id       string // joins the device to what stands behind it
	bus      string // of QEMU
	addr     string // slot.function
	multi    bool   // function 0 of several
	function string // BDF
}

func portID(i int) string   { return fmt.Sprintf("port%d", i) }
func bridgeID(i int) string { return fmt.Sprintf("bridge%d", i) }

// parts returns the devices, function 0 of a slot last: a slot is plugged in with it.
func (t *Topology) parts() []part {
	var parts []part
	functions := t.Functions()
	for i, p := range t.Ports {
		for j := len(p.Devices) - 1; j >= 0; j-- {
			d := part{Device: p.Devices[j], kind: kinds[p.Devices[j].Kind], id: fmt.Sprintf("dev%d_%d", i, j)}
			d.bus, d.addr = portID(i), fmt.Sprintf("0.%d", j)
			d.multi = j == 0 && len(p.Devices) > 1
			if p.Bridge {
				d.bus, d.addr, d.multi = bridgeID(i), fmt.Sprint(j+1), false
			}
			d.function = functions[j].BDF
			if d.VFs > 0 {
				d.disk, d.storage = false, false
			}
			parts = append(parts, d)
		}
		functions = functions[len(p.Devices):]
	}
	return parts
}

// option is one property of a device.
type option struct {
	key   string
	value any // string, bool or int
}

// options returns what device_add takes, or -device.
func (p *part) options() []option {
	o := append([]option{{"driver", p.driver}}, p.fixed...)
	o = append(o, option{"id", p.id}, option{"bus", p.bus}, option{"addr", p.addr})
	if p.multi {
		o = append(o, option{"multifunction", true})
	}
	switch {
	case p.net:
		o = append(o, option{"netdev", p.backend()})
	case p.disk:
		o = append(o, option{"drive", p.backend()})
	case p.storage:
		o = append(o, option{"memdev", p.backend()})
	}
	if p.ROM != "" {
		o = append(o, option{"romfile", p.ROM})
	}
	if p.Kind == NVMe {
		o = append(o, option{"serial", p.id})
	}
	if p.VFs > 0 {
		o = append(o, option{"subsys", p.subsystem()}, option{"sriov_max_vfs", p.VFs},
			option{"sriov_vq_flexible", 2 * p.VFs}, option{"sriov_vi_flexible", p.VFs})
	}
	return o
}

func (p *part) backend() string   { return p.id + "b" }
func (p *part) subsystem() string { return p.id + "s" }

// argument returns the device as the argument of -device.
func (p *part) argument() string {
	var words []string
	for i, o := range p.options() {
		switch on, isBool := o.value.(bool); {
		case i == 0:
			words = append(words, fmt.Sprint(o.value))
		case isBool:
			words = append(words, o.key+"="+onOff(on))
		default:
			words = append(words, fmt.Sprintf("%s=%v", o.key, o.value))
		}
	}
	return strings.Join(words, ",")
}

// frontend returns the arguments for what the guest sees of t when it is saved.
func (t *Topology) frontend() []string {
	var args []string
	if t.IOMMU {
		args = append(args, "-device", "intel-iommu,intremap="+onOff(t.InterruptRemapping))
	}
	for i, p := range t.Ports {
		args = append(args, "-device", fmt.Sprintf("pcie-root-port,id=%s,chassis=%d,slot=%d,addr=%#x%s",
			portID(i), i+1, i+1, firstPortSlot+i, p.reserve()))
		if p.Bridge {
			args = append(args, "-device", fmt.Sprintf("pcie-pci-bridge,id=%s,bus=%s", bridgeID(i), portID(i)))
		}
	}
	for _, p := range t.parts() {
		if !p.late {
			args = append(args, "-device", p.argument())
		}
	}
	return args
}

// reserve returns the option that has firmware leave room for BARs of devices that are plugged in later.
func (p *Port) reserve() string {
	var mib int64
	for _, d := range p.Devices {
		if d.Kind == IVShmem {
			mib += d.mib()
		}
	}
	if mib == 0 {
		return ""
	}
	return fmt.Sprintf(",pref64-reserve=%dM", 2*mib) // with its alignment
}

// machine returns the options of QEMU's machine that t needs.
func (t *Topology) machine() string {
	if t.IOMMU && t.InterruptRemapping {
		return ",kernel-irqchip=split"
	}
	return ""
}

// cmdline returns the kernel's arguments that t needs.
func (t *Topology) cmdline() []string {
	if !t.IOMMU {
		return nil
	}
	return []string{"intel_iommu=on"}
}

// media are the files behind a run's disks, and the descriptors QEMU inherits for them.
type media struct {
	files []*os.File
	args  []string
}

// openMedia makes what stands behind t's devices. dir is a folder for files that are forgotten.
func (t *Topology) openMedia(dir string) (media, error) {
	var m media
	for _, p := range t.parts() {
		id := p.backend()
		switch {
		case p.disk:
			f, err := p.open(dir)
			if err != nil {
				m.Close()
				return media{}, err
			}
			m.args = append(m.args, "-drive", "if=none,id="+id+",format=raw,file="+m.add(f))
		case p.net:
			m.args = append(m.args, "-netdev", "user,restrict=on,id="+id)
		case p.Kind == IVShmem:
			m.args = append(m.args, "-object", fmt.Sprintf("memory-backend-ram,share=on,id=%s,size=%dM", id, p.mib()))
		}
		if p.VFs > 0 {
			m.args = append(m.args, "-device", "nvme-subsys,id="+p.subsystem())
		}
	}
	return m, nil
}

// add has QEMU inherit f, and returns f's path there.
func (m *media) add(f *os.File) string {
	m.files = append(m.files, f)
	return fmt.Sprintf("/dev/fd/%d", firstMediaFD+len(m.files)-1)
}

// open opens the disk's file, or makes one that ends with its last descriptor.
func (p *part) open(dir string) (*os.File, error) {
	if p.File != "" {
		f, err := os.OpenFile(p.File, os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("the file of %s %s: %w", p.Kind, p.function, err)
		}
		return f, nil
	}
	f, err := os.CreateTemp(dir, tempPrefix+"disk-")
	if err != nil {
		return nil, fmt.Errorf("a file for %s %s: %w", p.Kind, p.function, err)
	}
	os.Remove(f.Name())
	if err := f.Truncate(p.mib() * MiB); err != nil {
		f.Close()
		return nil, fmt.Errorf("a file for %s %s: %w", p.Kind, p.function, err)
	}
	return f, nil
}

// Close closes our descriptors; QEMU has its own.
func (m *media) Close() {
	for _, f := range m.files {
		f.Close()
	}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// late returns the devices to plug in after the state was loaded, as arguments of device_add.
func (t *Topology) late() []map[string]any {
	var devices []map[string]any
	for _, p := range t.parts() {
		if !p.late {
			continue
		}
		device := make(map[string]any)
		for _, o := range p.options() {
			device[o.key] = o.value
		}
		devices = append(devices, device)
	}
	return devices
}

// addresses returns where the devices are.
func (t *Topology) addresses() []string {
	var all []string
	for _, f := range t.Functions() {
		all = append(all, f.BDF)
	}
	return all
}
