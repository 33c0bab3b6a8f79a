package boot

import (
	"fmt"

	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/layout"
)

// Protocol is how a kernel is entered.
type Protocol int

const (
	// Auto enters Linux in 64-bit mode, and another ELF kernel by PVH if it has the note.
	Auto Protocol = iota
	// Linux64 is the 64-bit entry of the Linux/x86 boot protocol.
	Linux64
	// PVH is the entry point in the note XEN_ELFNOTE_PHYS32_ENTRY.
	PVH
)

// Options is what a kernel is given.
type Options struct {
	Cmdline  string
	Initrds  []*Initrd // put one behind the other
	RSDP     uint64    // guest-physical address of the ACPI root pointer, 0: none
	Protocol Protocol
	Seed     []byte // for the guest's random generator, at most 1 KiB; PVH can't pass it on
	Used     bool   // mem has been used: Load clears what has to be zero
}

// Load puts k and what opts names into guest RAM and returns the state to start in.
//
// The RAM must be as guestmem.New returns it, all zero, or Options.Used say that it is not:
// what a kernel expects to be zero is not written. Files are read straight into guest RAM. Kernel, initrds, seed
// and mem are not kept. After an error the contents of mem are undefined.
func Load(mem *guestmem.Memory, k *Kernel, opts Options) (Entry, error) {
	pvh, err := k.usePVH(opts.Protocol)
	if err != nil {
		return Entry{}, err
	}
	if err := checkOptions(k, opts); err != nil {
		return Entry{}, err
	}
	low, err := lowRAM(mem, k)
	if err != nil {
		return Entry{}, err
	}
	if opts.Used {
		clear(low.Bytes[:k.End()]) // all that is written below the initrd, and the kernel's own room
	}
	p := params{cmdline: opts.Cmdline, rsdp: opts.RSDP, seed: opts.Seed}
	if p.memory, err = E820(mem.Regions()); err != nil {
		return Entry{}, err
	}
	if p.initrd, err = loadInitrd(mem, k, low, opts.Initrds); err != nil {
		return Entry{}, err
	}
	if err := writeCmdline(mem, p.cmdline); err != nil {
		return Entry{}, err
	}
	entry, err := enter(mem, k, pvh, p)
	entry.Kernel, entry.Initrd = k.span(), p.initrd
	return entry, err
}

func enter(mem *guestmem.Memory, k *Kernel, pvh bool, p params) (Entry, error) {
	if pvh {
		return enterPVH(mem, k, p)
	}
	return enterLinux64(mem, k, p)
}

func enterPVH(mem *guestmem.Memory, k *Kernel, p params) (Entry, error) {
	if err := k.loadELF(mem); err != nil {
		return Entry{}, err
	}
	if err := writeStartInfo(mem, p); err != nil {
		return Entry{}, err
	}
	return protected32(mem, k.elf.pvhEntry)
}

func enterLinux64(mem *guestmem.Memory, k *Kernel, p params) (Entry, error) {
	rip, err := k.load64(mem)
	if err != nil {
		return Entry{}, err
	}
	if err := writeZeroPage(mem, k, p); err != nil {
		return Entry{}, err
	}
	return long64(mem, rip)
}

// usePVH decides between the entry points that k has.
func (k *Kernel) usePVH(p Protocol) (bool, error) {
	switch p {
	case Auto:
		return k.PVH() && !k.Linux(), nil
	case Linux64:
		return false, nil
	case PVH:
		if !k.PVH() {
			return false, fmt.Errorf("kernel %s has no PVH entry point: build it with CONFIG_PVH as ELF vmlinux, or let it start in 64-bit mode", k.name)
		}
		return true, nil
	}
	return false, fmt.Errorf("boot protocol %d is unknown", p)
}

func checkOptions(k *Kernel, opts Options) error {
	if len(opts.Seed) > maxSeed {
		return fmt.Errorf("random seed of %d bytes, at most %d are taken", len(opts.Seed), maxSeed)
	}
	return k.CheckCmdline(opts.Cmdline)
}

// lowRAM returns the region from 0, which has to hold the boot structures and the
// kernel.
func lowRAM(mem *guestmem.Memory, k *Kernel) (guestmem.Region, error) {
	regions := mem.Regions()
	if len(regions) == 0 || regions[0].Start != 0 {
		return guestmem.Region{}, fmt.Errorf("kernel %s: there is no guest RAM at address 0", k.name)
	}
	low := regions[0]
	end := k.End()
	switch {
	case end > layout.LowRAMEnd:
		return low, fmt.Errorf("kernel %s ends at %s, but RAM below 4 GiB ends at %s: use a kernel linked at a lower address", k.name, mib(end), mib(layout.LowRAMEnd))
	case end > low.End():
		return low, fmt.Errorf("kernel %s needs %s of guest RAM to start in, there are %s: use %s or more", k.name, mib(end), mib(low.End()), suggestRAM(end))
	}
	return low, nil
}

// span returns what the kernel takes until it manages memory itself.
func (k *Kernel) span() Span {
	if k.bz != nil {
		return Span{k.bz.loadAddr(), uint64(k.bz.initSize)}
	}
	start := k.elf.start()
	return Span{start, k.End() - start}
}

// load64 reads the kernel into guest RAM and returns its 64-bit entry point.
func (k *Kernel) load64(mem *guestmem.Memory) (uint64, error) {
	if k.bz != nil {
		return k.loadBzImage(mem)
	}
	return k.elf.entry, k.loadELF(mem)
}

func (k *Kernel) loadELF(mem *guestmem.Memory) error {
	for _, s := range k.elf.segments {
		if err := k.read(mem, s.Addr, s.FileSize, s.Offset); err != nil {
			return err
		}
	}
	return nil
}

func (k *Kernel) loadBzImage(mem *guestmem.Memory) (uint64, error) {
	addr := k.bz.loadAddr()
	return addr + entry64Offset, k.read(mem, addr, uint64(k.bz.codeSize), k.bz.code)
}

// read reads n bytes at offset off of the kernel's file to gpa.
func (k *Kernel) read(mem *guestmem.Memory, gpa, n uint64, off int64) error {
	if n == 0 {
		return nil
	}
	b, err := mem.Slice(gpa, n)
	if err != nil {
		return fmt.Errorf("kernel %s: guest-physical %#x, %#x bytes: %w", k.name, gpa, n, err)
	}
	if err := readSparse(k.src, b, off); err != nil {
		return fmt.Errorf("kernel %s: %w", k.name, err)
	}
	return nil
}
