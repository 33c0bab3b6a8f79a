package mdev_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/mdev"
	"github.com/stile-vmm/stile/vfio"
)

// eduRegisters are those of an edu, reached through the host's own file as a driver of the host would.
type eduRegisters struct {
	t   *testing.T
	bar *sys.Mapping
}

func openEdu(t *testing.T, name string) eduRegisters {
	t.Helper()
	dir := "/sys/bus/pci/devices/" + name
	f, err := sys.Open(dir+"/resource0", unix.O_RDWR|unix.O_SYNC)
	check(t, err)
	t.Cleanup(func() { f.Close() })
	bar, err := sys.MapAligned(f, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED, 4096, 0)
	check(t, err)
	t.Cleanup(func() { bar.Close() })
	return eduRegisters{t, bar}
}

func (e eduRegisters) set(off int, v uint64) {
	binary.LittleEndian.PutUint64(e.bar.Bytes()[off:off+8], v)
}

// toRAM has the device write n bytes of its buffer to an I/O address, and waits until it says that it has.
func (e eduRegisters) toRAM(iova uint64, n uint64) {
	e.t.Helper()
	const buffer, start, toRAM = 0x40000, 1, 2
	for off, v := range map[int]uint64{0x80: buffer, 0x88: iova, 0x90: n} {
		e.set(off, v)
	}
	e.set(0x98, start|toRAM)
	for binary.LittleEndian.Uint64(e.bar.Bytes()[0x98:0xa0])&start != 0 {
		time.Sleep(10 * time.Millisecond)
	}
}

// command writes COMMAND of a function, or reads it where v is 0.
func command(t *testing.T, name string, v uint16) uint16 {
	t.Helper()
	f, err := os.OpenFile("/sys/bus/pci/devices/"+name+"/config", os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	b := binary.LittleEndian.AppendUint16(nil, v)
	if v != 0 {
		_, err = f.WriteAt(b, 4)
	} else {
		_, err = f.ReadAt(b, 4)
	}
	check(t, err)
	return binary.LittleEndian.Uint16(b)
}

// TestLabDonorSilent: a function that is wrapped while a sibling of its group is in use cannot reach the sibling's mappings, although
// it did before, and neither can it after it was given back.
func TestLabDonorSilent(t *testing.T) {
	const iova, memory, master = 0x200000, 2, 4
	h := labHost(t)
	labBind(t, h, behindA, behindC)
	s := open(t, vfio.Legacy)
	ram, err := sys.MapAnonymous(4096)
	check(t, err)
	t.Cleanup(func() { ram.Close() })
	attach(t, s, behindA)
	check(t, s.Map(iova, ram.Bytes(), vfio.Read|vfio.Write))

	check(t, write("/sys/bus/pci/devices/"+behindB+"/enable", "1"))
	t.Cleanup(func() { _ = write("/sys/bus/pci/devices/"+behindB+"/enable", "0") })
	command(t, behindB, memory|master)
	e := openEdu(t, behindB)
	untouched := bytes.Repeat([]byte{0xa5}, 4096)
	reaches := func() bool {
		copy(ram.Bytes(), untouched)
		e.toRAM(iova, 64)
		return !bytes.Equal(ram.Bytes(), untouched)
	}
	if !reaches() {
		t.Fatal("a bus master of the group does not reach the mappings: this test shows nothing")
	}
	w, err := h.Wrap(bdf(t, behindB), mdev.WrapOptions{})
	check(t, err)
	if c := command(t, behindB, 0); c&master != 0 {
		t.Errorf("%s, wrapped as %s, has COMMAND %#x: it masters the bus", behindB, w.UUID, c)
	}
	command(t, behindB, command(t, behindB, 0)|memory) // for the test to reach its registers
	if reaches() {
		t.Errorf("%s, wrapped, has written to what its sibling's user has mapped", behindB)
	}
	// A user switches it on, and is gone again.
	d := attach(t, s, w.UUID)
	_, err = d.Config().WriteAt([]byte{memory | master, 0}, 4)
	check(t, err)
	check(t, d.Close())
	if c := command(t, behindB, 0); c&master != 0 {
		t.Errorf("after its user %s has COMMAND %#x", behindB, c)
	}
	command(t, behindB, command(t, behindB, 0)|memory|master) // as somebody of the host could
	_, err = h.Unwrap(w.UUID, mdev.UnwrapOptions{Force: true})
	if err == nil {
		t.Fatal("unwrapped although its group is in use")
	}
	check(t, s.Close())
	_, err = h.Unwrap(w.UUID, mdev.UnwrapOptions{})
	check(t, err)
	if c := command(t, behindB, 0); c&master != 0 {
		t.Errorf("%s was given back with COMMAND %#x", behindB, c)
	}
}
