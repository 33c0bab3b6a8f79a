package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Tasks that move BARs about and look at odd ones.

// regBAR is BAR 0 in config space.
const regBAR = 0x10

func (c config) bar(i int) uint32 {
	at := int64(regBAR + 4*i)
	return uint32(c.get(at)) | uint32(c.get(at+2))<<16
}

// putBAR writes the register in one access, as a guest that moves it does.
func (c config) putBAR(i int, v uint32) {
	if _, err := c.WriteAt(binary.LittleEndian.AppendUint32(nil, v), int64(regBAR+4*i)); err != nil {
		fatal(err)
	}
}

// physical maps guest-physical memory that is no RAM.
func physical(at uint64, n int) ([]byte, error) {
	f, err := os.OpenFile("/dev/mem", os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), int64(at), n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %#x: %w", at, err)
	}
	return b, nil
}

const (
	page = 4096
	ones = ^uint32(0)
	// Free places at the end of the windows: for edu's 1 MiB, and for the upper half of a 64-bit BAR.
	farBAR     = 0xdff00000
	farBARHigh = 2
	eduAnswer  = 3628800 // 10!
	fewRounds  = 2       // the host may map each of many pages for other devices, each time
)

// moveEdu moves edu's BAR.
func moveEdu(dir string) error {
	if err := edu(dir); err != nil { // leaves the answer in the register
		return err
	}
	c, err := openConfig(dir)
	if err != nil {
		return err
	}
	old := c.bar(0)
	far := farBAR | old&0xf
	return move(c, rounds, place{dir + "/resource0", farBAR, eduFactorial, eduAnswer},
		func() { c.putBAR(0, far) }, func() { c.putBAR(0, old) })
}

// moveMemory moves the 64-bit BAR 2 of a device whose BAR is memory, by its upper half.
func moveMemory(dir string) error {
	c, err := openConfig(dir)
	if err != nil {
		return err
	}
	c.put(command, c.get(command)|memory)
	b, err := resource(dir + "/resource2")
	if err != nil {
		return err
	}
	const mark = 0xabcd1234
	atomic.StoreUint32(reg32(b, 0), mark)
	old := c.bar(3)
	far := uint64(farBARHigh)<<32 | uint64(c.bar(2)&^0xf)
	return move(c, fewRounds, place{dir + "/resource2", far, 0, mark},
		func() { c.putBAR(3, farBARHigh) }, func() { c.putBAR(3, old) })
}

// place is a register in a BAR: seen at its first place and at the one it is moved to.
type place struct {
	resource string
	far      uint64
	off      int
	value    uint32
}

// move moves a BAR there and back, with decoding off and on, while another thread reads the register
// all the time: it must see the value, or ones while nothing is there.
func move(c config, rounds int, p place, there, back func()) error {
	near, err := resource(p.resource)
	if err != nil {
		return err
	}
	far, err := physical(p.far, page)
	if err != nil {
		return err
	}
	var reads, nothing, wrong atomic.Uint64
	go func() {
		for {
			reads.Add(1)
			switch atomic.LoadUint32(reg32(near, p.off)) {
			case p.value:
			case ones:
				nothing.Add(1)
			default:
				wrong.Add(1)
			}
		}
	}()
	on := c.get(command)
	check := func(what string, atNear, atFar uint32) error {
		n, f := atomic.LoadUint32(reg32(near, p.off)), atomic.LoadUint32(reg32(far, p.off))
		if n != atNear || f != atFar {
			return fmt.Errorf("%s: %#x at the first place and %#x at the other, want %#x and %#x", what, n, f, atNear, atFar)
		}
		return nil
	}
	for range rounds {
		c.put(command, on&^memory)
		there()
		err := check("not decoded", ones, ones)
		c.put(command, on)
		err = errors.Join(err, check("moved while off", ones, p.value))
		back()
		err = errors.Join(err, check("moved back", p.value, ones))
		there()
		err = errors.Join(err, check("moved while on", ones, p.value))
		back()
		if err = errors.Join(err, check("moved back again", p.value, ones)); err != nil {
			return err
		}
	}
	if reads.Load() < uint64(rounds) || wrong.Load() > 0 {
		return fmt.Errorf("of %d reads %d gave ones and %d something else", reads.Load(), nothing.Load(), wrong.Load())
	}
	fmt.Printf("%d reads, %d of nothing\n", reads.Load(), nothing.Load())
	return nil
}

// Of QEMU's ivshmem (docs/specs/ivshmem-spec.rst), whose BAR 0 has 256 bytes.
const (
	shmemMask  = 0          // a register
	farSmall   = 0xdfe00000 // free
	smallReads = 1000
)

// subPage reads a BAR that is smaller than a page often, and moves it. It has a page to itself.
func subPage(dir string) error {
	c, err := openConfig(dir)
	if err != nil {
		return err
	}
	c.put(command, c.get(command)|memory)
	b, err := resource(dir + "/resource0")
	if err != nil {
		return err
	}
	if len(b) != page {
		return fmt.Errorf("the BAR has %d bytes, want a page", len(b))
	}
	for i := range uint32(smallReads) {
		atomic.StoreUint32(reg32(b, shmemMask), i)
		if v := atomic.LoadUint32(reg32(b, shmemMask)); v != i {
			return fmt.Errorf("the register has %#x, want %#x", v, i)
		}
	}
	old := c.bar(0)
	return move(c, fewRounds, place{dir + "/resource0", farSmall, shmemMask, smallReads - 1},
		func() { c.putBAR(0, farSmall|old&0xf) }, func() { c.putBAR(0, old) })
}

// A header in both BARs of QEMU's pci-testdev (docs/specs/pci-testdev.rst).
const (
	testSelect = 0
	testOffset = 4
	testData   = 8
	testCount  = 12
	testName   = 16
	testRounds = 20
)

// access reads or writes a byte of a BAR.
type access struct {
	get func(off int64) byte
	put func(off int64, v byte)
}

func (a access) word(off int64) (v uint32) {
	for i := range int64(4) {
		v |= uint32(a.get(off+i)) << (8 * i)
	}
	return v
}

// testDevice lets the device count writes to its memory BAR and to its I/O BAR.
func testDevice(dir string) error {
	c, err := openConfig(dir)
	if err != nil {
		return err
	}
	const ioDecode = 1
	c.put(command, c.get(command)|memory|ioDecode)
	b, err := resource(dir + "/resource0")
	if err != nil {
		return err
	}
	ports, err := os.OpenFile("/dev/port", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	base := int64(c.bar(1) &^ 3)
	io := access{
		func(off int64) byte {
			var v [1]byte
			if _, err := ports.ReadAt(v[:], base+off); err != nil {
				fatal(err)
			}
			return v[0]
		},
		func(off int64, v byte) {
			if _, err := ports.WriteAt([]byte{v}, base+off); err != nil {
				fatal(err)
			}
		},
	}
	mmio := access{func(off int64) byte { return load8(b, int(off)) }, func(off int64, v byte) { store8(b, int(off), v) }}
	return errors.Join(countWrites("mmio-no-eventfd", mmio), countWrites("portio-no-eventfd", io))
}

func countWrites(name string, a access) error {
	a.put(testSelect, 0)
	var got bytes.Buffer
	for i := range int64(len(name)) {
		got.WriteByte(a.get(testName + i))
	}
	if got.String() != name {
		return fmt.Errorf("the test is called %q, not %q", got.String(), name)
	}
	at, data := int64(a.word(testOffset)), a.get(testData)
	before := a.word(testCount)
	for range testRounds {
		a.put(at, data)
	}
	if n := a.word(testCount) - before; n != testRounds {
		return fmt.Errorf("%s: %d writes arrived of %d", name, n, testRounds)
	}
	return nil
}
