package virtio_test

import (
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
	"github.com/stile-vmm/stile/devices/virtq"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
)

// Requests that make no sense get an error, and the disk goes on.
func TestBlkNonsense(t *testing.T) {
	const end = memDiskSize / 512
	zeroRange := func(g *blkGuest, list ...[3]uint64) func() (uint32, uint64, int) {
		return func() (uint32, uint64, int) { return blkZeroes, 0, g.ranges(list...) }
	}
	discard := func(g *blkGuest, list ...[3]uint64) func() (uint32, uint64, int) {
		return func() (uint32, uint64, int) { return blkDiscard, 0, g.ranges(list...) }
	}
	plain := func(typ uint32, sector uint64, n int) func() (uint32, uint64, int) {
		return func() (uint32, uint64, int) { return typ, sector, n }
	}
	img := newMemDisk()
	g := newBlkGuest(t, img, blkF, 1, nil)
	for _, tt := range []struct {
		name    string
		request func() (uint32, uint64, int)
		want    byte
	}{
		{"read at the end", plain(blkIn, end, 512), blkIOErr},
		{"read across the end", plain(blkIn, end-1, 1024), blkIOErr},
		{"read beyond 2^64", plain(blkIn, 1<<55, 512), blkIOErr},
		{"read at the last sector of all", plain(blkIn, 1<<64-1, 512), blkIOErr},
		{"read of half a sector", plain(blkIn, 0, 100), blkIOErr},
		{"read of nothing", plain(blkIn, 0, 0), blkOK},
		{"write at the end", plain(blkOut, end, 512), blkIOErr},
		{"write across the end", plain(blkOut, end-1, 1024), blkIOErr},
		{"write beyond 2^64", plain(blkOut, 1<<55+1, 512), blkIOErr},
		{"write of half a sector", plain(blkOut, 0, 513), blkIOErr},
		{"write of nothing", plain(blkOut, 0, 0), blkOK},
		{"type 2", plain(2, 0, 0), blkUnsupp},
		{"type of all ones", plain(1<<32-1, 0, 512), blkUnsupp},
		{"secure erase", plain(14, 0, 16), blkUnsupp},
		{"flush with data", plain(blkFlush, 5, 512), blkOK},
		{"serial in one byte", plain(blkGetID, 0, 1), blkOK},
		{"serial without room", plain(blkGetID, 0, 0), blkOK},
		{"discard of nothing", plain(blkDiscard, 0, 0), blkIOErr},
		{"discard of half a range", plain(blkDiscard, 0, 8), blkIOErr},
		{"discard of too many ranges", plain(blkDiscard, 0, 33*16), blkIOErr},
		{"discard across the end", discard(g, [3]uint64{end - 1, 2, 0}), blkIOErr},
		{"discard beyond 2^64", discard(g, [3]uint64{1<<64 - 1, 1, 0}), blkIOErr},
		{"discard of too much", discard(g, [3]uint64{0, 1<<22 + 1, 0}), blkIOErr},
		{"discard, the second range bad", discard(g, [3]uint64{0, 1, 0}, [3]uint64{end, 1, 0}), blkIOErr},
		{"discard with unmap", discard(g, [3]uint64{0, 1, 1}), blkUnsupp},
		{"discard with unknown flags", discard(g, [3]uint64{0, 1, 1 << 31}), blkUnsupp},
		{"discard of no sectors", discard(g, [3]uint64{0, 0, 0}), blkOK},
		{"zeroes across the end", zeroRange(g, [3]uint64{end, 1, 0}), blkIOErr},
		{"zeroes of too much", zeroRange(g, [3]uint64{0, 1<<16 + 1, 0}), blkIOErr},
		{"zeroes with unknown flags", zeroRange(g, [3]uint64{0, 1, 2}), blkUnsupp},
		{"zeroes in two ranges", zeroRange(g, [3]uint64{0, 1, 0}, [3]uint64{1, 1, 0}), blkIOErr},
	} {
		img.data[0] = 1
		unmaps := img.unmaps.Load()
		if got := g.request(tt.request()); got != tt.want {
			t.Errorf("%s: status %d, want %d", tt.name, got, tt.want)
		}
		if tt.want != blkOK && (img.data[0] != 1 || img.unmaps.Load() != unmaps) {
			t.Errorf("%s: the disk was changed", tt.name)
		}
	}
	if err := g.tr.Err(); err != nil {
		t.Error(err)
	}
	img.readOnly = true
	g = newBlkGuest(t, img, blkF&^(1<<13|1<<14), 1, nil)
	for _, typ := range []uint32{blkOut, blkDiscard, blkZeroes} {
		if got := g.request(typ, 0, 16*32); got != blkIOErr {
			t.Errorf("type %d to a read-only disk: %d", typ, got)
		}
	}
	if err := g.tr.Err(); err != nil {
		t.Error(err)
	}
}

// Chains that are no request stop the device until it is reset.
func TestBlkBrokenChains(t *testing.T) {
	for name, breakIt := range map[string]func(g *blkGuest, r *virtqtest.Ring){
		"no status": func(g *blkGuest, r *virtqtest.Ring) { r.Add(g.setHeader(blkOut, 0)) },
		"empty status": func(g *blkGuest, r *virtqtest.Ring) {
			r.Add(g.setHeader(blkOut, 0), virtqtest.Buf{Addr: g.statusAddr, Write: true})
		},
		"no header":       func(g *blkGuest, r *virtqtest.Ring) { r.Add(g.statusBuf()) },
		"short header":    func(g *blkGuest, r *virtqtest.Ring) { r.Add(virtqtest.Buf{Addr: g.headerAddr, Len: 15}, g.statusBuf()) },
		"empty chain":     func(_ *blkGuest, r *virtqtest.Ring) { r.SetDesc(0, 0, 0, 0, 0); r.Publish(0) },
		"loop":            func(_ *blkGuest, r *virtqtest.Ring) { r.SetDesc(0, 0, 1, virtqtest.Next, 0); r.Publish(0) },
		"address":         func(_ *blkGuest, r *virtqtest.Ring) { r.SetDesc(0, 1<<40, 512, virtqtest.Write, 0); r.Publish(0) },
		"wrapped address": func(_ *blkGuest, r *virtqtest.Ring) { r.SetDesc(0, 1<<64-256, 512, virtqtest.Write, 0); r.Publish(0) },
		"head":            func(_ *blkGuest, r *virtqtest.Ring) { r.Publish(60000) },
		"order": func(g *blkGuest, r *virtqtest.Ring) {
			r.Add(virtqtest.Buf{Addr: g.statusAddr, Len: 1, Write: true}, g.setHeader(blkIn, 0))
		},
		"huge lengths": func(_ *blkGuest, r *virtqtest.Ring) {
			r.SetDesc(0, 0, 1<<32-1, virtqtest.Write, 0)
			r.Publish(0)
		},
		"index": func(_ *blkGuest, r *virtqtest.Ring) { r.SetAvail(5000) },
	} {
		t.Run(name, func(t *testing.T) {
			g := newBlkGuest(t, newMemDisk(), blkF, 1, nil)
			breakIt(g, g.Rings[0])
			g.Kick(0)
			g.m.IRQ.Wait(g.Message(0), 1)
			if err := g.tr.Err(); !errors.Is(err, virtq.ErrGuest) {
				t.Errorf("error %v", err)
			}
			g.Start(blkF, 3)
			if got := g.request(blkIn, 0, 512); got != blkOK {
				t.Errorf("after a reset: %d", got)
			}
		})
	}
}

// A request whose buffers are all the same memory, header, data and status, longer than any driver's.
func TestBlkAliases(t *testing.T) {
	g := newBlkGuest(t, newMemDisk(), blkF, 1, nil)
	g.setHeader(blkIn, 0)
	same := virtqtest.Buf{Addr: g.headerAddr, Len: 16}
	in := virtqtest.Buf{Addr: g.headerAddr, Len: 16, Write: true}
	bufs := []virtqtest.Buf{same}
	for range 200 {
		bufs = append(bufs, in)
	}
	g.chain(bufs...) // any status will do
	bufs = []virtqtest.Buf{g.setHeader(blkOut, 0)}
	for range 250 { // 15 MiB each
		bufs = append(bufs, virtqtest.Buf{Addr: 0, Len: 15 << 20})
	}
	g.chain(append(bufs, g.statusBuf())...)
	if g.status[0] != blkIOErr {
		t.Errorf("a write of 3.6 GiB: %d", g.status[0])
	}
	if got := g.request(blkIn, 0, 512); got != blkOK {
		t.Errorf("afterwards: %d", got)
	}
}

// A reset waits for the request under way, and the device touches nothing afterwards.
func TestBlkResetInFlight(t *testing.T) {
	img := newMemDisk()
	img.hold = make(chan struct{})
	g := newBlkGuest(t, img, blkF, 2, nil)
	r := g.Rings[0]
	for range 3 {
		r.Add(g.setHeader(blkIn, 0), virtqtest.Buf{Addr: g.dataAddr, Len: 512, Write: true}, g.statusBuf())
	}
	g.Kick(0)
	for img.holding.Load() == 0 {
		runtime.Gosched()
	}
	g.SetCommon(virtiotest.Status, 1, 0)
	if g.Common(virtiotest.Status, 1) == 0 {
		t.Error("the reset is done while a request is under way")
	}
	close(img.hold)
	for g.Common(virtiotest.Status, 1) != 0 {
		runtime.Gosched()
	}
	if img.holding.Load() != 0 {
		t.Error("a request is under way after the reset")
	}
	g.Start(blkF, 3)
	if got := g.request(blkIn, 0, 512); got != blkOK {
		t.Errorf("after the reset: %d", got)
	}
}

// FuzzBlk sends chains of any layout and content.
func FuzzBlk(f *testing.F) {
	f.Add([]byte{16, 0, 0x20, 2, 1, 1}, uint32(blkIn), uint64(0))
	f.Add([]byte{16, 0, 0x20, 2, 1, 1}, uint32(blkOut), uint64(2047))
	f.Add([]byte{8, 0, 8, 0, 16, 0, 1, 1}, uint32(blkDiscard), uint64(1))
	f.Add([]byte{16, 0, 20, 1, 1, 1}, uint32(blkGetID), uint64(1<<63))
	f.Fuzz(func(t *testing.T, shape []byte, typ uint32, sector uint64) {
		g := newBlkGuest(t, newMemDisk(), blkF, 1, nil)
		copy(g.data, shape)
		binary.LittleEndian.PutUint32(g.data, typ)
		binary.LittleEndian.PutUint64(g.data[8:], sector)
		var bufs []virtqtest.Buf
		for at := uint64(0); len(shape) >= 2 && len(bufs) < 64; shape = shape[2:] {
			n := uint32(shape[0]) << (shape[1] >> 1 & 15)
			bufs = append(bufs, virtqtest.Buf{Addr: g.dataAddr + at%(64<<10), Len: min(n, 128<<10), Write: shape[1]&1 != 0})
			at += uint64(n)
		}
		if len(bufs) > 0 {
			g.Rings[0].Add(bufs...)
		}
		g.Kick(0)
		g.Start(blkF|virtio.FeatureVersion1, 3)
		if got := g.request(blkIn, 0, 512); got != blkOK {
			t.Fatalf("read: %d", got)
		}
	})
}
