package virtq_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stile-vmm/stile/devices/virtq"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
)

const (
	memSize  = 1 << 20
	ringBase = 0x1000
	data     = 0x10000
)

func setup(t testing.TB, size uint16, change func(*virtq.Config)) (*virtqtest.Ring, *virtq.Queue) {
	t.Helper()
	r := virtqtest.New(t, virtqtest.Memory(t, memSize), ringBase, size)
	r.Config.Indirect = true
	if change != nil {
		change(&r.Config)
	}
	q, err := virtq.New(r.Mem, r.Config)
	if err != nil {
		t.Fatal(err)
	}
	return r, q
}

func write(t testing.TB, r *virtqtest.Ring, gpa uint64, p []byte) {
	t.Helper()
	if err := r.Mem.Write(gpa, p); err != nil {
		t.Fatal(err)
	}
}

func mustNext(t testing.TB, q *virtq.Queue, c *virtq.Chain) {
	t.Helper()
	if ok, err := q.Next(c); err != nil || !ok {
		t.Fatalf("Next = %v, %v; want a chain", ok, err)
	}
}

func TestRequest(t *testing.T) {
	r, q := setup(t, 8, nil)
	var c virtq.Chain
	if ok, err := q.Next(&c); ok || err != nil {
		t.Fatalf("Next on an empty queue = %v, %v", ok, err)
	}
	write(t, r, data, []byte("hello, "))
	write(t, r, data+0x100, []byte("world"))
	head, _ := r.Add(virtqtest.Buf{Addr: data, Len: 7}, virtqtest.Buf{Addr: data + 0x100, Len: 5},
		virtqtest.Buf{Addr: data + 0x200, Len: 3, Write: true}, virtqtest.Buf{Addr: data + 0x300, Len: 4, Write: true})
	mustNext(t, q, &c)
	if c.Head() != head || c.ReadableLen() != 12 || c.WritableLen() != 7 || len(c.Readable()) != 2 || len(c.Writable()) != 2 {
		t.Fatalf("chain %d: %d readable, %d writable bytes", c.Head(), c.ReadableLen(), c.WritableLen())
	}
	small := make([]byte, 3)
	if n, err := c.Read(small); n != 3 || err != nil || c.Unread() != 9 {
		t.Fatalf("Read = %d, %v, %d left", n, err, c.Unread())
	}
	rest, err := io.ReadAll(&c)
	if got := string(small) + string(rest); got != "hello, world" || err != nil {
		t.Fatalf("read %q, %v", got, err)
	}
	if n, err := c.Write([]byte("12345678")); n != 7 || err != io.ErrShortWrite || c.Written() != 7 {
		t.Fatalf("Write of 8 bytes into 7 = %d, %v", n, err)
	}
	q.Release(&c, c.Written())
	if id, n, ok := r.Used(); id != head || n != 7 || !ok {
		t.Fatalf("used: %d, %d, %v", id, n, ok)
	}
	got := make([]byte, 4)
	if err := r.Mem.Read(data+0x300, got); err != nil || string(got) != "4567" {
		t.Fatalf("guest got %q, %v", got, err)
	}
}

func TestWrapsAround(t *testing.T) {
	for _, eventIdx := range []bool{false, true} {
		r, q := setup(t, 4, func(c *virtq.Config) { c.EventIdx = eventIdx })
		var c virtq.Chain
		for i := range 70000 { // the 16-bit indices wrap
			if _, ok := r.Add(virtqtest.Buf{Addr: data, Len: 4, Write: true}); !ok {
				t.Fatal("ring full")
			}
			r.SetUsedEvent(r.LastUsed())
			mustNext(t, q, &c)
			q.Release(&c, uint32(i))
			if !q.NeedInterrupt() {
				t.Fatalf("event idx %v, request %d: no interrupt", eventIdx, i)
			}
			if _, n, ok := r.Used(); n != uint32(i) || !ok {
				t.Fatalf("request %d: used %d, %v", i, n, ok)
			}
		}
	}
}

func TestIndirect(t *testing.T) {
	r, q := setup(t, 4, nil)
	table := make([]byte, 3*16)
	virtqtest.PutDesc(table[0:], data, 3, virtqtest.Next, 2)
	virtqtest.PutDesc(table[32:], data+0x100, 4, virtqtest.Next|virtqtest.Write, 1)
	virtqtest.PutDesc(table[16:], data+0x200, 5, virtqtest.Write, 0)
	write(t, r, data+0x1000, table)
	// A direct descriptor first, and the write flag on the indirect one, which is ignored.
	r.SetDesc(1, data+0x300, 2, virtqtest.Next, 3)
	r.SetDesc(3, data+0x1000, 48, virtqtest.Indirect|virtqtest.Write, 0)
	r.Publish(1)
	var c virtq.Chain
	mustNext(t, q, &c)
	if c.Head() != 1 || c.ReadableLen() != 5 || c.WritableLen() != 9 || len(c.Readable()) != 2 {
		t.Fatalf("chain %d: %d readable in %d, %d writable", c.Head(), c.ReadableLen(), len(c.Readable()), c.WritableLen())
	}
}

func TestHostile(t *testing.T) {
	type desc struct {
		addr  uint64
		len   uint32
		flags uint16
		next  uint16
	}
	inTable := func(ds ...desc) []byte {
		b := make([]byte, 16*len(ds))
		for i, d := range ds {
			virtqtest.PutDesc(b[16*i:], d.addr, d.len, d.flags, d.next)
		}
		return b
	}
	const table = data + 0x1000
	for _, test := range []struct {
		name     string
		descs    []desc
		indirect []byte
		head     uint16
		bad      bool
		off      bool // without the indirect feature
	}{
		{name: "head out of range", head: 4, bad: true},
		{name: "head far out of range", head: 0xffff, bad: true},
		{name: "loop to itself", descs: []desc{{data, 1, virtqtest.Next, 0}}, bad: true},
		{name: "loop of two", descs: []desc{{data, 1, virtqtest.Next, 1}, {data, 1, virtqtest.Next, 0}}, bad: true},
		{name: "next out of range", descs: []desc{{data, 1, virtqtest.Next, 4}}, bad: true},
		{name: "buffer beyond RAM", descs: []desc{{memSize - 1, 2, 0, 0}}, bad: true},
		{name: "buffer at the end of RAM", descs: []desc{{memSize - 2, 2, 0, 0}}},
		{name: "address wraps", descs: []desc{{^uint64(0), 2, 0, 0}}, bad: true},
		{name: "huge length", descs: []desc{{data, 0xffffffff, 0, 0}}, bad: true},
		{name: "zero length", descs: []desc{{data, 0, virtqtest.Next, 1}, {data, 1, 0, 0}}},
		{name: "zero length outside RAM", descs: []desc{{1 << 40, 0, 0, 0}}, bad: true},
		{name: "readable behind writable", descs: []desc{{data, 1, virtqtest.Write | virtqtest.Next, 1}, {data, 1, 0, 0}}, bad: true},
		{name: "same buffer twice", descs: []desc{{data, 8, virtqtest.Next, 1}, {data, 8, virtqtest.Write, 0}}},
		{name: "indirect not negotiated", descs: []desc{{table, 16, virtqtest.Indirect, 0}}, off: true, bad: true},
		{name: "indirect with next", descs: []desc{{table, 16, virtqtest.Indirect | virtqtest.Next, 1}}, bad: true},
		{name: "indirect of odd length", descs: []desc{{table, 17, virtqtest.Indirect, 0}}, bad: true},
		{name: "indirect of length 0", descs: []desc{{table, 0, virtqtest.Indirect, 0}}, bad: true},
		{name: "indirect too long", descs: []desc{{table, 16 * (virtq.MaxChain + 1), virtqtest.Indirect, 0}}, bad: true},
		{name: "indirect beyond RAM", descs: []desc{{memSize - 16, 32, virtqtest.Indirect, 0}}, bad: true},
		{name: "indirect in indirect", descs: []desc{{table, 16, virtqtest.Indirect, 0}},
			indirect: inTable(desc{table, 16, virtqtest.Indirect, 0}), bad: true},
		{name: "indirect next out of table", descs: []desc{{table, 16, virtqtest.Indirect, 0}},
			indirect: inTable(desc{data, 1, virtqtest.Next, 1}), bad: true},
		{name: "indirect loop", descs: []desc{{table, 32, virtqtest.Indirect, 0}},
			indirect: inTable(desc{data, 1, virtqtest.Next, 1}, desc{data, 1, virtqtest.Next, 0}), bad: true},
		{name: "indirect readable behind writable", descs: []desc{{data, 1, virtqtest.Write | virtqtest.Next, 1}, {table, 16, virtqtest.Indirect, 0}},
			indirect: inTable(desc{data, 1, 0, 0}), bad: true},
		{name: "unknown flags", descs: []desc{{data, 1, 0xfff8, 0}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, q := setup(t, 4, func(c *virtq.Config) { c.Indirect = !test.off })
			for i, d := range test.descs {
				r.SetDesc(uint16(i), d.addr, d.len, d.flags, d.next)
			}
			write(t, r, table, test.indirect)
			r.Publish(test.head)
			var c virtq.Chain
			ok, err := q.Next(&c)
			if ok == test.bad || errors.Is(err, virtq.ErrGuest) != test.bad {
				t.Errorf("Next = %v, %v; want an error: %v", ok, err, test.bad)
			}
		})
	}
}

func TestChainOfMoreThan4GiB(t *testing.T) {
	r := virtqtest.New(t, virtqtest.Memory(t, 1<<30), ringBase, 8) // never touched: costs no memory
	q, err := virtq.New(r.Mem, r.Config)
	if err != nil {
		t.Fatal(err)
	}
	var bufs []virtqtest.Buf
	for range 5 {
		bufs = append(bufs, virtqtest.Buf{Addr: data, Len: 900 << 20})
	}
	r.Add(bufs...)
	var c virtq.Chain
	if _, err := q.Next(&c); !errors.Is(err, virtq.ErrGuest) {
		t.Errorf("Next = %v, want ErrGuest", err)
	}
}

func TestAvailableIndex(t *testing.T) {
	r, q := setup(t, 4, nil)
	r.SetAvail(5)
	var c virtq.Chain
	if _, err := q.Next(&c); !errors.Is(err, virtq.ErrGuest) {
		t.Errorf("index 5 ahead in a queue of 4: %v, want ErrGuest", err)
	}
	r, q = setup(t, 4, nil)
	r.SetDesc(0, data, 1, 0, 0)
	for i := range 5 { // more chains than descriptors: the same head again and again
		r.Publish(0)
		ok, err := q.Next(&c)
		if want := i < 4; ok != want || errors.Is(err, virtq.ErrGuest) == want {
			t.Errorf("chain %d in flight: %v, %v", i, ok, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	mem := virtqtest.Memory(t, memSize)
	good := virtq.Config{Size: 8, Desc: 0x1000, Avail: 0x2000, Used: 0x3000}
	for name, change := range map[string]func(*virtq.Config){
		"size 0":                   func(c *virtq.Config) { c.Size = 0 },
		"size 3":                   func(c *virtq.Config) { c.Size = 3 },
		"size too large":           func(c *virtq.Config) { c.Size = 65535 },
		"table unaligned":          func(c *virtq.Config) { c.Desc += 8 },
		"available ring unaligned": func(c *virtq.Config) { c.Avail++ },
		"used ring unaligned":      func(c *virtq.Config) { c.Used += 2 },
		"table beyond RAM":         func(c *virtq.Config) { c.Desc = memSize - 16 },
		"available beyond RAM":     func(c *virtq.Config) { c.Avail = memSize - 2 },
		"used beyond RAM":          func(c *virtq.Config) { c.Used = ^uint64(3) },
	} {
		c := good
		change(&c)
		if _, err := virtq.New(mem, c); !errors.Is(err, virtq.ErrGuest) {
			t.Errorf("%s: %v, want ErrGuest", name, err)
		}
	}
	if _, err := virtq.New(mem, good); err != nil {
		t.Error(err)
	}
}

// An available ring may begin at any even address, so its index may be in either half of
// its 32-bit word.
func TestAvailableRingAlignment(t *testing.T) {
	r, _ := setup(t, 4, nil)
	for _, off := range []uint64{0, 2} {
		cfg := r.Config
		cfg.Avail = 0x8000 + off
		write(t, r, cfg.Avail, []byte{0, 0, 1, 0, 2, 0})
		r.SetDesc(2, data, 9, 0, 0)
		q, err := virtq.New(r.Mem, cfg)
		if err != nil {
			t.Fatal(err)
		}
		var c virtq.Chain
		mustNext(t, q, &c)
		if c.Head() != 2 || c.ReadableLen() != 9 {
			t.Errorf("offset %d: head %d, %d bytes", off, c.Head(), c.ReadableLen())
		}
	}
}

func TestSuppression(t *testing.T) {
	for _, eventIdx := range []bool{false, true} {
		r, q := setup(t, 8, func(c *virtq.Config) { c.EventIdx = eventIdx })
		var c virtq.Chain
		guard := r.Config.Used + 4 + 8*8 + 2 // behind avail_event: not ours
		write(t, r, guard, []byte{0xaa, 0xbb})
		if q.NeedInterrupt() {
			t.Error("interrupt for nothing")
		}
		q.DisableNotify()
		if eventIdx {
			q.EnableNotify() // the device armed at 0
		}
		r.Add(virtqtest.Buf{Addr: data, Len: 1})
		if got := r.NeedKick(); got != eventIdx {
			t.Errorf("event idx %v: kick wanted: %v", eventIdx, got)
		}
		r.Add(virtqtest.Buf{Addr: data, Len: 1})
		if r.NeedKick() {
			t.Errorf("event idx %v: second kick wanted", eventIdx)
		}
		if !q.EnableNotify() {
			t.Errorf("event idx %v: EnableNotify missed what is available", eventIdx)
		}
		mustNext(t, q, &c)
		q.Release(&c, 0)
		mustNext(t, q, &c)
		q.Release(&c, 0)
		if q.EnableNotify() {
			t.Errorf("event idx %v: EnableNotify on an empty queue", eventIdx)
		}
		r.SuppressInterrupts(true)
		r.SetUsedEvent(5)
		if q.NeedInterrupt() {
			t.Errorf("event idx %v: interrupt though suppressed", eventIdx)
		}
		r.Add(virtqtest.Buf{Addr: data, Len: 1})
		if !r.NeedKick() {
			t.Errorf("event idx %v: no kick wanted though armed", eventIdx)
		}
		mustNext(t, q, &c)
		q.Release(&c, 0)
		r.SuppressInterrupts(false)
		r.SetUsedEvent(2)
		if !q.NeedInterrupt() {
			t.Errorf("event idx %v: no interrupt though wanted", eventIdx)
		}
		got := make([]byte, 2)
		if err := r.Mem.Read(guard, got); err != nil || !bytes.Equal(got, []byte{0xaa, 0xbb}) {
			t.Errorf("bytes behind the used ring changed: %x, %v", got, err)
		}
	}
}

// FuzzQueue lets the guest's memory be anything. Whatever comes out is within RAM, and
// the queue stops.
func FuzzQueue(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0}, true, uint16(1))
	f.Add([]byte{0, 0, 1, 0, 0, 0, 0, 0, 32, 0, 0, 0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0}, true, uint16(2))
	f.Fuzz(func(t *testing.T, image []byte, eventIdx bool, avail uint16) {
		r, q := setup(t, 8, func(c *virtq.Config) { c.EventIdx = eventIdx })
		image = image[:min(len(image), 0x4000)]
		write(t, r, ringBase, image) // descriptors, then rings
		write(t, r, data, image)     // indirect tables
		r.SetAvail(avail)
		var c virtq.Chain
		for range 16 {
			ok, err := q.Next(&c)
			if err != nil && !errors.Is(err, virtq.ErrGuest) {
				t.Fatal(err)
			}
			if !ok {
				return
			}
			var n uint64
			for _, s := range c.Readable() {
				n += uint64(len(s))
			}
			if n != c.ReadableLen() || len(c.Readable())+len(c.Writable()) > virtq.MaxChain {
				t.Fatalf("%d readable bytes, said %d", n, c.ReadableLen())
			}
			if _, err := c.Write([]byte("some bytes")); err != nil && err != io.ErrShortWrite {
				t.Fatal(err)
			}
			q.Release(&c, c.Written())
			q.NeedInterrupt()
			q.EnableNotify()
		}
	})
}

func BenchmarkNextRelease(b *testing.B) {
	for _, bench := range []struct {
		name     string
		eventIdx bool
	}{{"flags", false}, {"event", true}} {
		b.Run(bench.name, func(b *testing.B) {
			r, q := setup(b, 256, func(c *virtq.Config) { c.EventIdx = bench.eventIdx })
			var c virtq.Chain
			b.ReportAllocs()
			for b.Loop() {
				r.Add(virtqtest.Buf{Addr: data, Len: 512}, virtqtest.Buf{Addr: data + 4096, Len: 4096, Write: true})
				if ok, err := q.Next(&c); !ok {
					b.Fatal(err)
				}
				q.Release(&c, 4096)
				q.NeedInterrupt()
				r.Used()
			}
		})
	}
}
