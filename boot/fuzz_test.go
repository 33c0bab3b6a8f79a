package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"testing"

	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/layout"
)

// maxFuzzOutput bounds what one fuzz run unpacks, in bytes.
const maxFuzzOutput = 1 << 20

// fuzzWindow keeps a run short: most of its time would go to clearing the window.
const fuzzWindow = 1 << 20

// boundedWriter fails when more was written than the payload's trailer says.
type boundedWriter struct {
	t    *testing.T
	left int64
}

var errEnough = errors.New("enough written")

func (w *boundedWriter) Write(p []byte) (int, error) {
	w.left -= int64(len(p))
	if w.left < 0 {
		w.t.Fatalf("%d bytes more than declared", -w.left)
	}
	return len(p), nil
}

// cappedWriter stops a run that unpacks for long.
type cappedWriter struct {
	io.Writer
	left int64
}

func (w *cappedWriter) Write(p []byte) (int, error) {
	if w.left -= int64(len(p)); w.left < 0 {
		return 0, errEnough
	}
	return w.Writer.Write(p)
}

func FuzzBzImage(f *testing.F) {
	for format := range packers() {
		f.Add(smallBzImage(packedPayload(f, format)).bytes())
	}
	f.Add(smallBzImage([]byte("\x89LZOxxxx")).bytes())
	f.Fuzz(func(t *testing.T, image []byte) {
		k, err := NewKernel("fuzz", bytes.NewReader(image), int64(len(image)))
		if err != nil {
			return
		}
		if k.Format() == BzImage && k.bz.payload+k.bz.payloadSize > int64(len(image)) {
			t.Fatalf("payload of %d bytes at %d in a file of %d", k.bz.payloadSize, k.bz.payload, len(image))
		}
		c, err := k.codec()
		if err != nil || c.open == nil {
			return
		}
		_ = k.unpack(c, &cappedWriter{&boundedWriter{t, k.UnpackedSize()}, maxFuzzOutput}, fuzzWindow)
	})
}

func fuzzMemory(f *testing.F) *guestmem.Memory {
	mem, err := guestmem.New([]layout.Range{{Size: 4 * layout.MiB}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { mem.Close() })
	return mem
}

func FuzzLoad(f *testing.F) {
	f.Add(smallELF().bytes())
	f.Add(smallELF().with(linuxNote(), pvhNote(0x100000)).bytes())
	f.Add(smallELF().with(pvhNote(0x100010)).bytes())
	f.Add(testELF{entry: 0xffffffff81000000, segments: []testSegment{{virt: 0xffffffff81000000, phys: 0x200000, data: []byte{1, 2, 3}, memSize: 0x100000}}}.bytes())
	f.Add(smallBzImage([]byte("\x89LZOxxxx")).bytes())
	mem := fuzzMemory(f)
	f.Fuzz(func(t *testing.T, image []byte) {
		k, err := NewKernel("fuzz", bytes.NewReader(image), int64(len(image)))
		if err != nil {
			return
		}
		e, err := Load(mem, k, Options{Initrds: []*Initrd{newInitrd("i", []byte("initrd"))}})
		if err != nil {
			return
		}
		if e.RIP < e.Kernel.Start || e.RIP >= e.Kernel.End() {
			t.Fatalf("entry %#x is outside the kernel at %#x", e.RIP, e.Kernel)
		}
		if e.Kernel.Start < layout.HighRAM || e.Kernel.End() > e.Initrd.Start || e.Initrd.End() > mem.Size() {
			t.Fatalf("kernel at %#x, initrd at %#x, RAM of %#x", e.Kernel, e.Initrd, mem.Size())
		}
	})
}

func FuzzPlace(f *testing.F) {
	f.Add(uint64(1), uint64(0x1000000), uint64(0x8000000), uint32(0x7fffffff))
	f.Add(uint64(math.MaxUint64), uint64(0), uint64(1<<32), uint32(math.MaxUint32))
	f.Add(uint64(4096), uint64(4096), uint64(8192), uint32(0))
	f.Fuzz(func(t *testing.T, size, bottom, top uint64, last uint32) {
		top %= max4GiB + 1
		bottom = alignUp(bottom%(top+1), layout.PageSize)
		start, ok := place(size, bottom, top, last)
		if !ok {
			// It must not have fitted: not even at the lowest place.
			if end := bottom + size; end >= size && size > 0 && end <= min(top, uint64(last)+1) {
				t.Fatalf("%#x bytes in [%#x, %#x) up to %#x: refused", size, bottom, top, last)
			}
			return
		}
		if start%layout.PageSize != 0 || start < bottom || start+size < start || start+size > top || start+size > uint64(last)+1 {
			t.Fatalf("%#x bytes in [%#x, %#x) up to %#x: placed at %#x", size, bottom, top, last, start)
		}
		if up := start + layout.PageSize; up+size <= min(top, uint64(last)+1) {
			t.Fatalf("%#x bytes in [%#x, %#x) up to %#x: placed at %#x, a page too low", size, bottom, top, last, start)
		}
	})
}

// zeros reads as zeros without end.
type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }

func FuzzInitrdSizes(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0x20, 0, 0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 0, 0, 0, 0, 0, 0, 0})
	mem := fuzzMemory(f)
	image := smallELF().bytes()
	f.Fuzz(func(t *testing.T, sizes []byte) {
		var parts []*Initrd
		total := uint64(0)
		for ; len(sizes) >= 8; sizes = sizes[8:] {
			n := int64(binary.LittleEndian.Uint64(sizes))
			parts = append(parts, &Initrd{Name: "fuzz", Data: zeros{}, Size: n})
			total = alignUp(total, 4) + uint64(n)
		}
		k := newKernel(t, image)
		e, err := Load(mem, k, Options{Initrds: parts})
		if err != nil {
			return
		}
		if e.Initrd.Size != total || total > 0 && (e.Initrd.Start < k.End() || e.Initrd.End() > mem.Size()) {
			t.Fatalf("initrd at %#x for %#x bytes, kernel ends at %#x", e.Initrd, total, k.End())
		}
	})
}

func FuzzCmdline(f *testing.F) {
	f.Add("console=ttyS0 quiet")
	f.Add("a\x00b")
	f.Add("a\n")
	mem := fuzzMemory(f)
	image := smallELF().bytes()
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := Load(mem, newKernel(t, image), Options{Cmdline: s}); err != nil {
			return
		}
		b, err := mem.Slice(layout.Cmdline, layout.CmdlineMax)
		if err != nil {
			t.Fatal(err)
		}
		if got := cString(b); got != s {
			t.Fatalf("the guest has %q for %q", got, s)
		}
	})
}
