package boot

import (
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/layout"
)

// Initrd is an initial RAM disk, or one part of it: Linux unpacks archives that stand
// one behind the other, each over what came before.
type Initrd struct {
	Name   string // for errors
	Data   io.ReaderAt
	Size   int64 // bytes
	closer io.Closer
}

// OpenInitrd opens the file at path. The caller closes it after [Load].
func OpenInitrd(path string) (*Initrd, error) {
	f, size, err := openFile("initramfs", path)
	if err != nil {
		return nil, err
	}
	if err := checkInitrd(f, size); err != nil {
		f.Close()
		return nil, fmt.Errorf("initramfs %s: %w", path, err)
	}
	return &Initrd{Name: path, Data: f, Size: size, closer: f}, nil
}

// checkInitrd refuses what is certainly none. The kernel takes a dozen formats, and
// does not say much about others.
func checkInitrd(r io.ReaderAt, size int64) error {
	head, err := readHead(r, size)
	if err != nil {
		return err
	}
	if isBzImage(head) || isELF(head) {
		return errors.New("is a kernel or a program: the initramfs goes with -i, the kernel with -k")
	}
	return nil
}

// Close closes the file that OpenInitrd opened. It may be called more than once.
func (i *Initrd) Close() error {
	if i.closer == nil {
		return nil
	}
	c := i.closer
	i.closer = nil
	return c.Close()
}

// initrdAlign is where the kernel looks for the next archive: at a multiple of 4 bytes,
// behind zeros.
const initrdAlign = 4

// initrdSize returns the bytes that the parts take together.
func initrdSize(parts []*Initrd) (uint64, error) {
	total := uint64(0)
	for _, p := range parts {
		if p.Size <= 0 {
			return 0, fmt.Errorf("initramfs %s: %w", p.Name, errEmpty)
		}
		total = alignUp(total, initrdAlign)
		if uint64(p.Size) > math.MaxInt64-total {
			return 0, fmt.Errorf("initramfs %s: %d bytes are more than any RAM", p.Name, p.Size)
		}
		total += uint64(p.Size)
	}
	return total, nil
}

// place returns where size bytes go: page-aligned and as high as possible in
// [bottom, top), with no byte behind last. The caller has bottom ≤ top ≤ 4 GiB.
func place(size, bottom, top uint64, last uint32) (uint64, bool) {
	top = min(top, uint64(last)+1)
	if size > top {
		return 0, false
	}
	start := (top - size) &^ (layout.PageSize - 1)
	return start, start >= bottom
}

// loadInitrd reads the parts into guest RAM between the end of the kernel and that of
// low RAM.
func loadInitrd(mem *guestmem.Memory, k *Kernel, low guestmem.Region, parts []*Initrd) (Span, error) {
	size, err := initrdSize(parts)
	if err != nil || size == 0 {
		return Span{}, err
	}
	start, ok := place(size, alignUp(k.End(), layout.PageSize), low.End(), k.initrdAddrMax())
	if !ok {
		return Span{}, k.initrdTooBig(size, low)
	}
	b, err := mem.Slice(start, size)
	if err != nil {
		return Span{}, fmt.Errorf("initramfs at %#x, %#x bytes: %w", start, size, err)
	}
	return Span{start, size}, readInitrds(b, parts)
}

func readInitrds(b []byte, parts []*Initrd) error {
	off := uint64(0)
	for _, p := range parts {
		next := alignUp(off, initrdAlign)
		clear(b[off:next])
		off = next + uint64(p.Size)
		if err := readAt(p.Data, b[next:off], 0); err != nil {
			return fmt.Errorf("initramfs %s: %w", p.Name, err)
		}
	}
	return nil
}

// initrdAddrMax returns the last address that a byte of the initrd may have.
func (k *Kernel) initrdAddrMax() uint32 {
	if k.bz != nil && k.bz.initrdAddrMax != 0 {
		return k.bz.initrdAddrMax
	}
	return defaultInitrdMax
}

func (k *Kernel) initrdTooBig(size uint64, low guestmem.Region) error {
	need := alignUp(k.End(), layout.PageSize) + alignUp(size, layout.PageSize)
	if need > uint64(k.initrdAddrMax())+1 || need > layout.LowRAMEnd {
		return fmt.Errorf("initramfs of %s does not fit behind kernel %s, which ends at %s: the kernel wants it below %s, use a smaller one",
			mib(size), k.name, mib(k.End()), mib(min(uint64(k.initrdAddrMax())+1, layout.LowRAMEnd)))
	}
	return fmt.Errorf("initramfs of %s does not fit behind kernel %s, which ends at %s, in guest RAM of %s: use %s or more",
		mib(size), k.name, mib(k.End()), mib(low.End()), suggestRAM(need+size))
}

// mib rounds up to MiB.
func mib(n uint64) string { return fmt.Sprintf("%d MiB", (n+layout.MiB-1)/layout.MiB) }

// suggestRAM returns the -m flag that gives need bytes and some room to run in.
func suggestRAM(need uint64) string {
	const step = 64 * layout.MiB
	return fmt.Sprintf("-m %dM", alignUp(need+step, step)/layout.MiB)
}
