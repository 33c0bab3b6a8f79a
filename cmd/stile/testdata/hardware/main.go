// Hardware plays a driver, inside a guest, for devices that were passed through to it.
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() == 1 {
		initMain()
	}
	if len(os.Args) != 3 {
		fatal(errors.New("usage: hardware TASK VENDOR:DEVICE|ADDRESS"))
	}
	task, ok := tasks()[os.Args[1]]
	if !ok {
		fatal(fmt.Errorf("no task %q", os.Args[1]))
	}
	dirs, err := find(os.Args[2])
	if err != nil {
		fatal(err)
	}
	for _, dir := range dirs {
		if err := task(dir); err != nil {
			fatal(fmt.Errorf("%s: %w", dir, err))
		}
		fmt.Println(filepath.Base(dir), "fine")
	}
}

// tasks are what can be done with a function, given by its folder in sysfs.
func tasks() map[string]func(dir string) error {
	return map[string]func(dir string) error{
		"edu": edu, "msi": msi, "memory": shared, "decode": decode, "serial": serial, "picture": picture, "secondary": secondary,
		"move": moveEdu, "move-memory": moveMemory, "sub-page": subPage, "test-device": testDevice,
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// find returns the function at an address, or those with an ID, at least one.
func find(id string) ([]string, error) {
	if dir := "/sys/bus/pci/devices/" + id; exists(dir) {
		return []string{dir}, nil
	}
	dirs, err := filepath.Glob("/sys/bus/pci/devices/*")
	var found []string
	for _, dir := range dirs {
		vendor, _ := os.ReadFile(dir + "/vendor")
		device, _ := os.ReadFile(dir + "/device")
		if strings.TrimSpace(string(vendor))+":"+strings.TrimSpace(string(device)) == id {
			found = append(found, dir)
		}
	}
	if len(found) == 0 {
		return nil, errors.Join(err, fmt.Errorf("no function %s", id))
	}
	return found, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// config is a function's config space.
type config struct{ *os.File }

func openConfig(dir string) (config, error) {
	f, err := os.OpenFile(dir+"/config", os.O_RDWR, 0)
	return config{f}, err
}

func (c config) get(off int64) uint16 {
	var b [2]byte
	if _, err := c.ReadAt(b[:], off); err != nil {
		fatal(err)
	}
	return binary.LittleEndian.Uint16(b[:])
}

func (c config) put(off int64, v uint16) {
	if _, err := c.WriteAt(binary.LittleEndian.AppendUint16(nil, v), off); err != nil {
		fatal(err)
	}
}

// capability returns the offset of a capability, 0 if there is none.
func (c config) capability(id uint16) int64 {
	for at := c.get(0x34) & 0xfc; at != 0; at = c.get(int64(at)) >> 8 & 0xfc {
		if c.get(int64(at))&0xff == id {
			return int64(at)
		}
	}
	return 0
}

const (
	command = 4
	memory  = 2
	master  = 4
)

// bar maps BAR 0.
func bar(dir string) ([]byte, error) { return resource(dir + "/resource0") }

func resource(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// Registers of QEMU's educational device (docs/specs/edu.rst).
const (
	eduID        = 0x00
	eduLive      = 0x04
	eduFactorial = 0x08
	eduStatus    = 0x20
	eduSource    = 0x80
	eduTarget    = 0x88
	eduCount     = 0x90
	eduDMA       = 0x98
	eduBuffer    = 0x40000
	eduToRAM     = 2
	eduHole      = 0xff00000 // beyond the guest's RAM, and within the 28 bits of the device
)

func edu(dir string) error {
	c, err := openConfig(dir)
	if err != nil {
		return err
	}
	c.put(command, c.get(command)|memory|master)
	b, err := bar(dir)
	if err != nil {
		return err
	}
	if id := atomic.LoadUint32(reg32(b, eduID)); id != 0x010000ed {
		return fmt.Errorf("identification %#x", id)
	}
	atomic.StoreUint32(reg32(b, eduLive), 0x12345678)
	if v := atomic.LoadUint32(reg32(b, eduLive)); v != ^uint32(0x12345678) {
		return fmt.Errorf("liveness %#x", v)
	}
	atomic.StoreUint32(reg32(b, eduFactorial), 10)
	if err := await(func() bool { return atomic.LoadUint32(reg32(b, eduStatus))&1 == 0 }); err != nil {
		return fmt.Errorf("factorial: %w", err)
	}
	if v := atomic.LoadUint32(reg32(b, eduFactorial)); v != 3628800 {
		return fmt.Errorf("10! is %d", v)
	}
	return eduTransfers(b)
}

// eduTransfers moves a page to the device and back, and then to where there is no RAM.
func eduTransfers(b []byte) error {
	const n = 2048 // the device has a buffer of a page, and takes less
	page, physical, err := pinnedPage()
	if err != nil {
		return err
	}
	for i := range page {
		page[i] = byte(i * 7)
	}
	want := bytes.Clone(page[:n])
	if err := transfer(b, physical, eduBuffer, n, 0); err != nil {
		return err
	}
	clear(page)
	if err := transfer(b, eduBuffer, eduHole, n, eduToRAM); err != nil {
		return err
	}
	if err := transfer(b, eduBuffer, physical, n, eduToRAM); err != nil {
		return err
	}
	if !bytes.Equal(page[:n], want) {
		return fmt.Errorf("after DMA there and back the page begins with %x", page[:16])
	}
	return nil
}

func transfer(b []byte, source, target uint64, n int, direction uint64) error {
	atomic.StoreUint64(reg64(b, eduSource), source)
	atomic.StoreUint64(reg64(b, eduTarget), target)
	atomic.StoreUint64(reg64(b, eduCount), uint64(n))
	atomic.StoreUint64(reg64(b, eduDMA), 1|direction)
	if err := await(func() bool { return atomic.LoadUint64(reg64(b, eduDMA))&1 == 0 }); err != nil {
		return fmt.Errorf("DMA from %#x to %#x: %w", source, target, err)
	}
	return nil
}

func await(done func() bool) error {
	for end := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(end) {
			return errors.New("the device does not get ready")
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// pinnedPage returns a page and its guest-physical address.
func pinnedPage() ([]byte, uint64, error) {
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_LOCKED|unix.MAP_POPULATE)
	if err != nil {
		return nil, 0, err
	}
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	var entry [8]byte
	if _, err := f.ReadAt(entry[:], int64(address(page)/4096*8)); err != nil {
		return nil, 0, err
	}
	return page, binary.LittleEndian.Uint64(entry[:]) & (1<<55 - 1) * 4096, nil
}

// sharedPages is how many pages are looked at.
const sharedPages = 256

// shared writes to pages all over BAR 2, which is memory, and reads them back.
func shared(dir string) error {
	c, err := openConfig(dir)
	if err != nil {
		return err
	}
	c.put(command, c.get(command)|memory)
	b, err := resource(dir + "/resource2")
	if err != nil {
		return err
	}
	step := max(4096, len(b)/sharedPages)
	for off := 0; off < len(b); off += step {
		atomic.StoreUint64(reg64(b, off), uint64(off)*3+1)
	}
	for off := 0; off < len(b); off += step {
		if v := atomic.LoadUint64(reg64(b, off)); v != uint64(off)*3+1 {
			return fmt.Errorf("%#x of %#x has %#x", off, len(b), v)
		}
	}
	fmt.Printf("%#x bytes\n", len(b))
	return nil
}

// Registers of edu's interrupt, and of its MSI capability, which is 64-bit without masks.
const (
	eduRaise     = 0x60
	eduAck       = 0x64
	capMSI       = 5
	msiControl   = 2
	msiAddress   = 4
	msiData      = 12
	apicBase     = 0xfee0
	strayVector  = 0x4b // that no driver has
	strayMessage = "No irq handler for"
)

// msi makes the device raise an interrupt that nothing in the kernel expects, which the
// kernel's log then tells of.
func msi(dir string) error {
	c, err := openConfig(dir)
	if err != nil {
		return err
	}
	c.put(command, c.get(command)|memory|master)
	b, err := bar(dir)
	if err != nil {
		return err
	}
	at := c.capability(capMSI)
	if at == 0 {
		return errors.New("no MSI capability")
	}
	c.put(at+msiAddress, 0)
	c.put(at+msiAddress+2, apicBase)
	c.put(at+msiData, strayVector)
	c.put(at+msiControl, c.get(at+msiControl)|1)
	for n := 1; n <= 3; n++ {
		atomic.StoreUint32(reg32(b, eduRaise), 1)
		err := await(func() bool { return strings.Count(kernelLog(), strayMessage) >= n })
		if err != nil {
			return fmt.Errorf("interrupt %d: %w", n, err)
		}
		atomic.StoreUint32(reg32(b, eduAck), 1)
	}
	return nil
}

func kernelLog() string {
	const readAll = 3
	buf := make([]byte, 1<<20)
	n, err := unix.Klogctl(readAll, buf)
	if err != nil {
		fatal(err)
	}
	return string(buf[:n])
}

// Capabilities and bits in them.
const (
	capPM    = 1
	capPCIe  = 0x10
	pmState  = 4
	pcieCtl  = 8
	pcieFLR  = 0x8000
	rounds   = 10
	stateD3  = 3
	settleD3 = 20 * time.Millisecond
)

// decode switches memory decoding off and on, puts the device to sleep, and resets it, while
// another thread reads its registers all the time.
func decode(dir string) error {
	c, err := openConfig(dir)
	if err != nil {
		return err
	}
	pm, pcie := c.capability(capPM), c.capability(capPCIe)
	if pm == 0 || pcie == 0 {
		return fmt.Errorf("capabilities at %#x and %#x", pm, pcie)
	}
	on := c.get(command) | memory
	c.put(command, on)
	b, err := bar(dir)
	if err != nil {
		return err
	}
	var reads, ones atomic.Uint64
	alive := atomic.LoadUint32(reg32(b, 0))
	go func() {
		for {
			if reads.Add(1); atomic.LoadUint32(reg32(b, 0)) == ^uint32(0) {
				ones.Add(1)
			}
		}
	}()
	for range rounds {
		c.put(command, on&^memory)
		time.Sleep(2 * time.Millisecond)
		c.put(command, on)
		c.put(pm+pmState, c.get(pm+pmState)|stateD3)
		time.Sleep(settleD3)
		c.put(pm+pmState, c.get(pm+pmState)&^stateD3)
		time.Sleep(settleD3)
		c.put(pcie+pcieCtl, c.get(pcie+pcieCtl)|pcieFLR)
		time.Sleep(100 * time.Millisecond)
		c.put(command, on)
	}
	if v := atomic.LoadUint32(reg32(b, 0)); v != alive || reads.Load() < rounds || ones.Load() == 0 {
		return fmt.Errorf("register 0 was %#x and is %#x, after %d reads of which %d gave ones", alive, v, reads.Load(), ones.Load())
	}
	fmt.Println(reads.Load(), "reads,", ones.Load(), "ones")
	return nil
}
