package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// Limits and defaults of a Machine.
const (
	// MiB is a mebibyte in bytes.
	MiB = 1 << 20
	// MinMem is L1's memory, in bytes, unless more is asked for: room for a guest of 1 GiB.
	MinMem = 2048 * MiB
	// MaxMem bounds L1's memory, in bytes.
	MaxMem = 256 << 30
	// leastMem is what a machine without guests does with, in bytes.
	leastMem = 1024 * MiB
	// ownMem is what L1 itself needs beside its guest: kernel, agent, caches and
	// the files that were written to the overlay.
	ownMem = 768 * MiB
	// MaxCPUs bounds L1's processors.
	MaxCPUs = 64
)

// Machine is L1. It is a plain value; its zero value is not valid.
//
// Everything that QEMU is told about the guest-visible machine comes from here, because
// a state that was saved by one machine must be resumed by the very same: QEMU loads the
// state of another silently, or fails halfway.
type Machine struct {
	// Mem is L1's memory in bytes, a multiple of a MiB.
	Mem int64
	// CPUs is the number of L1's processors. One is fastest: a second one of an emulated
	// machine costs more in locks than it gains.
	CPUs int
	// CPU is QEMU's -cpu.
	CPU string
	// Cmdline is the kernel's command line.
	Cmdline string
	// Topology is the IOMMU, and the devices behind it.
	Topology Topology
}

// cpuModel is everything that TCG emulates, SVM with nested paging among it, without what makes it slow: five
// levels of page tables, and instructions that TCG does byte by byte.
const cpuModel = "max,la57=off,erms=off,fsrm=off"

// kernelArgs makes an L1 that is quick to resume and costs its guest little.
var kernelArgs = []string{
	"console=ttyS0", "quiet",
	"panic=-1", // QEMU has -no-reboot: a panic ends it
	// Nothing secret is in L1, and no CPU that leaks is emulated.
	"mitigations=off", "nokaslr",
	// TCG's time stamps are the host's; the watchdog, which compares
	// them to slower clocks, would give them up after a resume.
	"tsc=reliable", "nowatchdog",
	// A check that counts timer interrupts during a busy loop, and panics on a busy host.
	"no_timer_check",
	// Timers then fire with L1's own ticks. A guest whose kernel asks for 1,000 interrupts a second, each of
	// which costs half a millisecond here, gets as many as L1 has ticks, and loses no time by it.
	"highres=off",
	"random.trust_cpu=on",
	"init_on_alloc=0", // would touch, and save, all memory that is set aside for guests
	// L1's guests have no use for a KVM of their own, and setting one up costs them a second.
	"kvm_amd.nested=0",
	"STILE_AGENT=1", "STILE_LAB=1",
}

// machine returns the machine that c asks for.
func (c *Config) machine() (Machine, error) {
	switch {
	case c.GuestMem < 0 || c.GuestMem > MaxMem-ownMem:
		return Machine{}, fmt.Errorf("lab: a guest of %d bytes: at most %d MiB fit", c.GuestMem, (MaxMem-ownMem)/MiB)
	case c.CPUs < 0 || c.CPUs > MaxCPUs:
		return Machine{}, fmt.Errorf("lab: %d CPUs: 1 to %d are possible", c.CPUs, MaxCPUs)
	case c.Mem != 0 && (c.Mem < leastMem || c.Mem > MaxMem || c.Mem%MiB != 0):
		return Machine{}, fmt.Errorf("lab: a memory of %d bytes: must be whole MiB, %d to %d", c.Mem, leastMem/MiB, MaxMem/MiB)
	}
	m := Machine{Mem: c.Mem, CPUs: max(c.CPUs, 1), CPU: cpuModel}
	if c.Topology != nil {
		m.Topology = *c.Topology
	}
	if err := m.Topology.Validate(); err != nil {
		return Machine{}, err
	}
	if m.Mem == 0 {
		m.Mem = memFor(c.GuestMem)
	}
	words := append(slices.Clone(kernelArgs), m.Topology.cmdline()...)
	m.Cmdline = fmt.Sprintf("%s hugepages=%d", strings.Join(words, " "), (m.Mem-ownMem)/hugePage)
	return m, nil
}

// hugePage is what the memory for guests is set aside in, in bytes. The kernel has no
// transparent huge pages, and a guest's first touch of a page is slow under emulation:
// 4 KiB pages would cost the boot of a guest 20,000 of them.
const hugePage = 2 * MiB

// memFor returns L1's memory for a guest: a power of two, so that few states are kept.
func memFor(guestMem int64) int64 {
	need := max(guestMem+ownMem, MinMem)
	return 1 << bits.Len64(uint64(need-1))
}

// Names that join the machine to what stands behind it.
const (
	ramID     = "ram0"
	agentID   = "agent"
	consoleID = "console"
	qmpID     = "qmp"
	rootTag   = "host"
	tmpTag    = "hosttmp"
	// writableTag begins the names of the shares behind Config.Writable.
	writableTag = "hostrw"
	// maxWritable is how many there are. They are functions of one slot each eight, from writableSlot on.
	maxWritable  = 16
	writableSlot = 0x7
)

func writableName(i int) string { return writableTag + strconv.Itoa(i) }

// frontend returns the arguments for what the guest sees. They are part of the state's key.
func (m *Machine) frontend() []string {
	args := []string{
		"-nodefaults", "-no-user-config", "-nic", "none", "-display", "none", "-no-reboot",
		"-machine", "q35,accel=tcg,memory-backend=" + ramID + m.Topology.machine(),
		"-cpu", m.CPU,
		"-smp", fmt.Sprint(m.CPUs),
		"-m", fmt.Sprintf("%dM", m.Mem/MiB),
		"-serial", "chardev:" + consoleID,
		"-device", "virtio-serial-pci,addr=0x4,disable-legacy=on,max_ports=2",
		"-device", "virtserialport,nr=1,chardev=" + agentID + ",name=" + agentproto.PortName,
		"-device", "virtio-9p-pci,addr=0x5,disable-legacy=on,fsdev=" + rootTag + ",mount_tag=" + rootTag,
		"-device", "virtio-9p-pci,addr=0x6,disable-legacy=on,fsdev=" + tmpTag + ",mount_tag=" + tmpTag,
	}
	for i := range maxWritable {
		args = append(args, "-device", fmt.Sprintf("virtio-9p-pci,addr=%#x.%d,multifunction=on,disable-legacy=on,fsdev=%s,mount_tag=%[3]s",
			writableSlot+i/8, i%8, writableName(i)))
	}
	return append(args, m.Topology.frontend()...)
}

// backend says what stands behind the machine in one run.
type backend struct {
	ram    string   // path of ram.img
	shared bool     // whether the machine's writes reach ram.img
	root   string   // folder that L1 sees as the host's root
	tmp    string   // folder that L1 sees as the host's /tmp
	empty  string   // an empty folder
	rw     []string // folders that L1 may write to
	bare   bool     // without QEMU's sandbox, which its build lacks
	media  media    // behind the devices

	// Inherited descriptors, each one end of a socket pair.
	qmp, agent, console int
}

// args returns the arguments for b. They are not part of the state's key.
func (m *Machine) args(b *backend) []string {
	share := "off"
	if b.shared {
		share = "on"
	}
	var args []string
	if !b.bare {
		args = append(args, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	}
	args = append(args,
		"-object", fmt.Sprintf("memory-backend-file,id=%s,size=%dM,share=%s,mem-path=%s", ramID, m.Mem/MiB, share, escape(b.ram)),
		"-fsdev", folder(rootTag, b.root),
		"-fsdev", folder(tmpTag, b.tmp),
	)
	args = append(args, b.writable()...)
	args = append(args,
		"-chardev", fmt.Sprintf("socket,id=%s,fd=%d", qmpID, b.qmp),
		"-qmp", "chardev:"+qmpID, // -mon is deprecated since 11.1
		"-chardev", fmt.Sprintf("socket,id=%s,fd=%d", agentID, b.agent),
		"-chardev", fmt.Sprintf("socket,id=%s,fd=%d", consoleID, b.console),
	)
	args = append(args, b.media.args...)
	return append(args, m.frontend()...)
}

// folder is a read-only share.
func folder(id, path string) string { return share(id, path, "on") }

// share is a folder. Inode numbers of the host's several file systems are mapped apart.
func share(id, path, readOnly string) string {
	return "local,id=" + id + ",security_model=none,readonly=" + readOnly + ",multidevs=remap,path=" + escape(path)
}

// writable are the shares that L1 may write to, and empty ones in place of those that are not needed.
func (b *backend) writable() []string {
	var args []string
	for i := range maxWritable {
		dev := folder(writableName(i), b.empty)
		if i < len(b.rw) {
			dev = share(writableName(i), b.rw[i], "off")
		}
		args = append(args, "-fsdev", dev)
	}
	return args
}

// escape doubles commas, which separate QEMU's options.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }

// key names the state that this machine saves: the hash of all it depends on. image
// stands for what L1 boots.
func (m *Machine) key(q *QEMU, image string) string {
	data, err := json.Marshal(struct {
		Format                    int
		QEMU, Image, CPU, Cmdline string
		Args                      []string
		Stage0                    string
	}{
		Format: stateFormat,
		QEMU:   q.Identity,
		Image:  image,
		// L1 has measured the time stamp counter of this processor.
		CPU:     hostCPU(),
		Cmdline: m.Cmdline,
		Args:    m.frontend(),
		Stage0:  agentproto.LabLine(""),
	})
	if err != nil {
		return "" // strings and numbers: can't fail
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// hostCPU names the processor, by the lines of /proc/cpuinfo that say what it is.
func hostCPU() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	return cpuName(string(data))
}

func cpuName(cpuinfo string) string {
	var name []string
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "vendor_id", "cpu family", "model", "model name", "stepping":
			name = append(name, strings.TrimSpace(value))
		case "":
			return strings.Join(name, " ") // the first processor is enough
		}
	}
	return strings.Join(name, " ")
}
