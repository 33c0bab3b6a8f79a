package vmm

import (
	"errors"
	"fmt"
	"io"
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/layout"
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
	AgentPort bool    // a virtio-console port for the agent, see VM.Agent
	NoRNG     bool    // leave out virtio-rng

	// Console receives what the guest writes to its serial line and to hvc0. It is
	// called by one goroutine at a time and should not block for long. Nil discards.
	Console io.Writer
	// Input is read for the serial line's input until EOF. Nil means none.
	Input io.Reader
	// HideAsyncPF hides asynchronous page faults from the guest, which nested hosts
	// under emulation do not always deliver.
	HideAsyncPF bool
	// HugePages takes RAM from the host's pool of 2 MiB pages while it has enough.
	HugePages bool
}

// Share is a folder of the host that the guest can mount by its tag over 9P.
type Share struct {
	Tag      string
	Path     string
	ReadOnly bool
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
		fault("memory of %s is too small: at least %s", Bytes(c.Memory), Bytes(MinMemory))
	case c.Memory%memoryAlign != 0:
		fault("memory of %d bytes is not a multiple of %s", c.Memory, Bytes(memoryAlign))
	}
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

// checkHost reports what this host cannot give.
func (c *Config) checkHost() error {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return fmt.Errorf("sysinfo: %w", err)
	}
	total := uint64(si.Totalram) * uint64(si.Unit)
	if c.Memory > total {
		return fmt.Errorf("%w: memory of %s is more than the host's %s; use a smaller -m", ErrConfig, Bytes(c.Memory), Bytes(total))
	}
	return nil
}

// memory makes the guest's RAM.
func (c *Config) memory() (*guestmem.Memory, error) {
	ranges := layout.RAM(c.Memory)
	if c.HugePages {
		mem, err := guestmem.NewHuge(ranges)
		if !errors.Is(err, unix.ENOMEM) {
			return mem, err
		}
	}
	return guestmem.New(ranges)
}

func (c *Config) cpus() int { return max(c.CPUs, 1) }

// Bytes is a size that prints with the largest binary unit that divides it.
type Bytes uint64

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
