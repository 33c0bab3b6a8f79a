package vmm

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/devices/backend/share"
	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/hostmem"
	"github.com/stile-vmm/stile/internal/kreport"
	"github.com/stile-vmm/stile/internal/layout"
	"github.com/stile-vmm/stile/vfio"
)

const (
	// MinMemory is the smallest guest RAM accepted, in bytes: below it no Linux starts.
	MinMemory = 16 * layout.MiB
	// MaxCPUs is the largest number of vCPUs: what xAPIC IDs can name, less broadcast.
	MaxCPUs = 254
	// memoryAlign is what RAM sizes must be a multiple of, in bytes.
	memoryAlign = 2 * layout.MiB
	// maxTag is the longest mount tag of a share, in bytes.
	maxTag = 31
)

// ErrConfig marks faults of a Config, found before anything is changed.
var ErrConfig = errors.New("invalid configuration")

// Config describes a VM. It is a plain value: nothing is opened until New. The zero
// value of a field that is not marked as required means its default.
type Config struct {
	Kernel  string   // path of an ELF vmlinux or a bzImage; required
	Initrds []string // paths, concatenated in this order
	Cmdline string
	CPUs    int    // vCPUs, 1 if 0
	Memory  uint64 // bytes of guest RAM; required

	Shares    []Share // folders, each a virtio-9p device
	Disks     []Disk  // each a virtio-blk device
	Nets      []Net   // network cards
	Vsock     *Vsock  // nil for none
	Balloon   bool    // a virtio-balloon, see VM.SetBalloon
	AgentPort bool    // a virtio-console port for the agent, see VM.Agent
	NoRNG     bool    // leave out virtio-rng
	NoConsole bool    // leave out virtio-console, which has the agent's port too

	// Devices of the host are passed through, by the VFIO backend that is given or else found
	// to be usable. They are bound to a VFIO driver already.
	Devices []vfio.Node
	VFIO    vfio.Backend
	// DescribeDevice adds to the error of a device that cannot be had what the caller knows of
	// its group: who holds it, which members have drivers of the host. Nil adds nothing.
	DescribeDevice func(vfio.Node) string
	// OnUnplug says what happens when the host wants a device back, OnDeviceError when one
	// reports an error that the hardware could not correct.
	OnUnplug, OnDeviceError Policy
	// PowerOff, if not nil, asks the guest to power itself off when the VM is to stop because
	// of OnUnplug. It returns when the guest has, or does not; the VM ends then.
	PowerOff func()
	// OnReboot says what happens when the guest resets the machine. A kernel that panicked has
	// ended even if it does.
	OnReboot RebootPolicy
	// Rebooting, if not nil, is called at a reset after which the guest boots again, while no vCPU
	// runs and after the agent's port has failed its readers and writers. When it returns nobody
	// may be using the port: a new stream begins. An error ends the VM.
	Rebooting func() error
	// Rebooted, if not nil, is called after Rebooting, once the agent's port has begun its new
	// stream. It must not block.
	Rebooted func()
	// Notice is told what the user should know while the VM is made and runs. It may be called
	// concurrently, and must not block. Nil ignores it.
	Notice func(text string)

	// OnReport says what happens when the guest's kernel reports a fault that it survives.
	OnReport Reports
	// KeepGoing leaves a guest whose kernel panicked or locked up as it is, for a debugger.
	KeepGoing bool

	// Console receives what the guest writes to its serial line and to hvc0. It is
	// called by one goroutine at a time. One that is slow slows the guest's output down; one that stands still for a second
	// misses output, and the guest goes on. Nil discards.
	Console io.Writer
	// Input is read for the serial line's input until EOF. Nil means none.
	Input io.Reader
	// HugePages says what of the host's pool of 2 MiB pages is taken for RAM; "" nothing.
	HugePages HugePages
}

// HugePages says when RAM is of the host's pool of 2 MiB pages.
type HugePages string

const (
	PoolIfFree HugePages = "if-free" // while the pool has enough
	PoolOnly   HugePages = "only"    // New fails otherwise
)

// Policy says what is to happen.
type Policy string

const (
	Stop Policy = "stop" // end the VM; also the zero value's meaning
	Warn Policy = "warn" // tell Config.Notice
	// Ignore is for reports of the guest's kernel alone.
	Ignore Policy = "ignore"
)

func (p Policy) valid() bool { return p == "" || p == Stop || p == Warn }

// Reports choose by kind what a report of the guest's kernel does; nil has the defaults. ParseReports makes them.
type Reports = kreport.Actions

// Report is one report of a guest's kernel.
type Report = kreport.Report

// ParseReports reads what --on-oops takes: stop, warn or ignore for all kinds, or KIND=ACTION,….
func ParseReports(text string) (Reports, error) { return kreport.ParseActions(text) }

// Share is a folder of the host that the guest can mount by its tag over 9P.
type Share struct {
	Tag      string
	Path     string
	ReadOnly bool
	Owner    *share.Owner // who the guest's root is on the host; see share.Config
}

// Validate reports every fault of c that can be found without the host's devices.
// Each wraps ErrConfig.
func (c *Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...))
	}
	if c.Kernel == "" {
		fault("no kernel given")
	}
	if c.CPUs < 0 || c.CPUs > MaxCPUs {
		fault("%d CPUs: must be 1 to %d", c.CPUs, MaxCPUs)
	}
	switch {
	case c.Memory < MinMemory:
		fault("memory of %s is too small: --memory takes %s at least", Bytes(c.Memory), Bytes(MinMemory))
	case c.Memory%memoryAlign != 0:
		below := c.Memory / memoryAlign * memoryAlign
		fault("memory of %s is not a multiple of %s: --memory takes %s or %s", Bytes(c.Memory), Bytes(memoryAlign), Bytes(below), Bytes(below+memoryAlign))
	}
	if c.AgentPort && c.NoConsole {
		fault("the agent's port is one of the virtio-console that is left out")
	}
	if c.HugePages == PoolOnly && c.Balloon {
		fault("--balloon gives back small pages, and --hugepages has none")
	}
	if !c.OnReboot.valid() {
		fault("on-reboot %q: must be %s or %s", c.OnReboot, RebootExit, RebootReset)
	}
	c.validateDevices(fault)
	c.validateDisks(fault)
	c.validateNets(fault)
	c.validateVsock(fault)
	faults = append(faults, c.validateBalloon())
	tags := make(map[string]bool)
	for _, s := range c.Shares {
		switch {
		case s.Tag == "" || len(s.Tag) > maxTag:
			fault("share of %s: tag %q must have 1 to %d bytes", s.Path, s.Tag, maxTag)
		case tags[s.Tag]:
			fault("share of %s: tag %q is used twice", s.Path, s.Tag)
		}
		tags[s.Tag] = true
	}
	return errors.Join(faults...)
}

// maxDevices is how many devices of the host fit on the bus beside the emulated ones.
const maxDevices = 24

func (c *Config) validateDevices(fault func(format string, args ...any)) {
	seen := make(map[string]bool)
	for _, n := range c.Devices {
		if seen[n.Name] {
			fault("device %s is passed through twice", n.Name)
		}
		seen[n.Name] = true
	}
	if len(c.Devices) > maxDevices {
		fault("%d devices to pass through: at most %d", len(c.Devices), maxDevices)
	}
	if c.VFIO != "" {
		if _, err := vfio.ParseBackend(string(c.VFIO)); err != nil {
			fault("%v", err)
		}
	}
	for _, p := range []Policy{c.OnUnplug, c.OnDeviceError} {
		if !p.valid() {
			fault("policy %q: must be %s or %s", p, Stop, Warn)
		}
	}
}

// checkHost reports what this host cannot give.
func (c *Config) checkHost() error { return CheckHostMemory(c.Memory) }

// CheckHostMemory reports RAM of size bytes that this host does not have, or that the control groups of
// this process do not allow.
func CheckHostMemory(size uint64) error {
	limit, err := hostmem.Max()
	if err != nil {
		return err
	}
	switch {
	case size <= limit.Bytes:
		return nil
	case limit.Group == "":
		return fmt.Errorf("%w: memory of %s is more than the host's %s; use a smaller --memory", ErrConfig, Bytes(size), Bytes(limit.Bytes).Round())
	}
	return fmt.Errorf("%w: memory of %s is more than the %s that the control group %s allows (%s); use a smaller --memory or raise the limit",
		ErrConfig, Bytes(size), Bytes(limit.Bytes).Round(), limit.Group, limit.File)
}

// memory makes the guest's RAM.
func (c *Config) memory(ranges []layout.Range) (*guestmem.Memory, error) {
	if c.HugePages == "" || c.Balloon { // which gives back small ones
		return guestmem.New(ranges)
	}
	mem, err := guestmem.NewHuge(ranges)
	if !errors.Is(err, unix.ENOMEM) {
		return mem, err
	}
	if c.HugePages == PoolOnly {
		return nil, fmt.Errorf("the host's pool of pages of %s has not enough for %s of RAM: raise it by %d in /proc/sys/vm/nr_hugepages, or leave out --hugepages",
			Bytes(memoryAlign), Bytes(c.Memory), c.Memory/memoryAlign)
	}
	return guestmem.New(ranges)
}

func (c *Config) cpus() int { return max(c.CPUs, 1) }

// Bytes is a size that prints with the largest binary unit that divides it.
type Bytes uint64

// Round returns about as much, rounded down to a tenth of a unit: "23.4G".
func (b Bytes) Round() string {
	const units = "KMGTPE"
	value, unit := float64(b)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", math.Floor(value*10)/10), ".0") + units[unit:unit+1]
}

func (b Bytes) String() string {
	if b == 0 {
		return "0"
	}
	const units = "BKMGTPE"
	unit := min(bits.TrailingZeros64(uint64(b))/10, len(units)-1)
	if unit == 0 {
		return fmt.Sprintf("%d bytes", uint64(b))
	}
	return fmt.Sprintf("%d%c", uint64(b)>>(10*unit), units[unit])
}
