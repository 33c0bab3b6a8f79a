// Package virtqtest is the driver's side of a split virtqueue, for tests. It can also be
// told to break every rule.
package virtqtest

import (
	"encoding/binary"
	"testing"

	"github.com/stile-vmm/stile/devices/virtq"
	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/layout"
)

// Descriptor flags (virtio 1.3, 2.7.5).
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

// Buf is one buffer of a request.
type Buf struct {
	Addr  uint64 // guest-physical
	Len   uint32
	Write bool // the device writes it
}

// Ring is a queue as its driver sees it. It has one user at a time.
type Ring struct {
	Mem      *guestmem.Memory
	Config   virtq.Config
	desc     []byte
	avail    []byte
	used     []byte
	free     []uint16
	next     uint16 // available index
	kicked   uint16 // available index at the last kick
	lastUsed uint16
	chains   map[uint16][]uint16
}

// Memory returns n bytes of guest RAM at 0, unmapped at the end of the test.
func Memory(t testing.TB, n uint64) *guestmem.Memory {
	t.Helper()
	m, err := guestmem.New([]layout.Range{{Start: 0, Size: n}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// New lays a ring out at base, which must be 16-byte aligned.
func New(t testing.TB, mem *guestmem.Memory, base uint64, size uint16) *Ring {
	t.Helper()
	n := uint64(size)
	r := &Ring{Mem: mem, chains: map[uint16][]uint16{}, Config: virtq.Config{
		Size: size, Desc: base, Avail: base + 16*n, Used: (base + 16*n + 6 + 2*n + 3) &^ 3,
	}}
	r.desc = r.slice(t, r.Config.Desc, 16*n)
	r.avail = r.slice(t, r.Config.Avail, 6+2*n)
	r.used = r.slice(t, r.Config.Used, 6+8*n)
	clear(r.desc)
	clear(r.avail)
	clear(r.used)
	for i := range size {
		r.free = append(r.free, size-1-i)
	}
	return r
}

func (r *Ring) slice(t testing.TB, gpa, n uint64) []byte {
	t.Helper()
	b, err := r.Mem.Slice(gpa, n)
	if err != nil {
		t.Fatalf("ring part at %#x, %d bytes: %v", gpa, n, err)
	}
	return b
}

// End returns the first address behind the ring.
func (r *Ring) End() uint64 { return r.Config.Used + 6 + 8*uint64(r.Config.Size) }

// SetDesc writes descriptor i.
func (r *Ring) SetDesc(i uint16, addr uint64, n uint32, flags, next uint16) {
	PutDesc(r.desc[16*int(i):], addr, n, flags, next)
}

// PutDesc encodes a descriptor.
func PutDesc(b []byte, addr uint64, n uint32, flags, next uint16) {
	binary.LittleEndian.PutUint64(b[0:], addr)
	binary.LittleEndian.PutUint32(b[8:], n)
	binary.LittleEndian.PutUint16(b[12:], flags)
	binary.LittleEndian.PutUint16(b[14:], next)
}

// Publish makes the chain at head available.
func (r *Ring) Publish(head uint16) {
	binary.LittleEndian.PutUint16(r.avail[4+2*int(r.next%r.Config.Size):], head)
	r.next++
	r.SetAvail(r.next)
}

// SetAvail sets the available index, with flags 0.
func (r *Ring) SetAvail(idx uint16) {
	r.next = idx
	storeWord(r.avail, uint32(idx)<<16|uint32(load16(r.avail, 0)))
}

// SuppressInterrupts sets or clears the available ring's flag.
func (r *Ring) SuppressInterrupts(on bool) {
	flags := uint32(0)
	if on {
		flags = 1
	}
	storeWord(r.avail, uint32(r.next)<<16|flags)
}

// SetUsedEvent asks for an interrupt when the used index passes idx.
func (r *Ring) SetUsedEvent(idx uint16) {
	binary.LittleEndian.PutUint16(r.avail[4+2*int(r.Config.Size):], idx)
}

// AvailEvent returns the available index at which the device wants a doorbell.
func (r *Ring) AvailEvent() uint16 { return load16(r.used, 4+8*int(r.Config.Size)) }

// Add makes a request of the buffers available. It returns false if the ring is full.
func (r *Ring) Add(bufs ...Buf) (uint16, bool) {
	if len(r.free) < len(bufs) {
		return 0, false
	}
	at := len(r.free) - len(bufs)
	ids := r.free[at:]
	r.free = r.free[:at]
	head := ids[len(ids)-1]
	kept := r.chains[head][:0]
	for i, b := range bufs {
		id := ids[len(ids)-1-i]
		kept = append(kept, id)
		var flags, next uint16
		if b.Write {
			flags |= Write
		}
		if i+1 < len(bufs) {
			flags |= Next
			next = ids[len(ids)-2-i]
		}
		r.SetDesc(id, b.Addr, b.Len, flags, next)
	}
	r.chains[head] = kept
	r.Publish(head)
	return head, true
}

// Used takes the next finished request: its head and the bytes written.
func (r *Ring) Used() (head uint16, n uint32, ok bool) {
	if load16(r.used, 2) == r.lastUsed {
		return 0, 0, false
	}
	e := r.used[4+8*int(r.lastUsed%r.Config.Size):]
	r.lastUsed++
	head, n = uint16(binary.LittleEndian.Uint32(e)), binary.LittleEndian.Uint32(e[4:])
	ids := r.chains[head]
	for i := range ids {
		r.free = append(r.free, ids[len(ids)-1-i])
	}
	r.chains[head] = ids[:0]
	return head, n, true
}

// LastUsed returns the used index up to which requests were taken.
func (r *Ring) LastUsed() uint16 { return r.lastUsed }

// NeedKick reports whether the device wants a doorbell for what was made available since
// the last call.
func (r *Ring) NeedKick() bool {
	from := r.kicked
	r.kicked = r.next
	if from == r.next {
		return false
	}
	if r.Config.EventIdx {
		return r.next-r.AvailEvent()-1 < r.next-from
	}
	return load16(r.used, 0)&1 == 0
}
