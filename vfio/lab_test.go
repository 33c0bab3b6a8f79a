package vfio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/internal/uapi/vfio"
	"github.com/stile-vmm/stile/kvm"
	"golang.org/x/sys/unix"
)

// The lab tests run as root in a nested host with an emulated IOMMU, where STILE_VFIO_LAB is
// set, on devices that are bound to vfio-pci. PCI addresses come in variables:
//
//	STILE_VFIO_EDU    QEMU's edu, alone in its group
//	STILE_VFIO_GROUP  several edu of one group, separated by commas
//	STILE_VFIO_MSIX   a device with MSI-X
//	STILE_VFIO_LARGE  a device with a BAR of at least 64 MiB
//
// and in others that stand at their tests.
const labVariable = "STILE_VFIO_LAB"

// labNodes returns the devices of a variable.
func labNodes(t *testing.T, variable string) []Node {
	t.Helper()
	if os.Getenv(labVariable) == "" {
		testenv.Missing(t, "nested", "TestInLab runs it in a nested host")
	}
	names := os.Getenv(variable)
	if names == "" {
		testenv.Missing(t, "vfio", variable+" is not set")
	}
	var nodes []Node
	for name := range strings.SplitSeq(names, ",") {
		n, err := Lookup("/sys", name)
		check(t, err)
		nodes = append(nodes, n)
	}
	return nodes
}

// forEachBackend runs test with each backend that the kernel has for the nodes.
func forEachBackend(t *testing.T, nodes []Node, test func(t *testing.T, b Backend)) {
	probes := map[Backend]func(kernel, []Node) error{Legacy: probeLegacy, IOMMUFD: probeIOMMUFD}
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			var fresh []Node // an earlier test may have bound them anew
			for _, n := range nodes {
				n, err := Lookup("/sys", n.Name)
				check(t, err)
				fresh = append(fresh, n)
			}
			if err := probes[b](hostKernel{}, fresh); err != nil {
				testenv.Missing(t, "vfio-"+string(b), err.Error())
			}
			test(t, b)
		})
	}
}

// labSpace opens a Space whose files a VM gets to know.
func labSpace(t *testing.T, b Backend) *Space {
	t.Helper()
	s, err := Open(b, Options{KVM: labKVM(t)})
	check(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func labKVM(t *testing.T) Files {
	t.Helper()
	system, err := kvm.Open()
	if err != nil {
		t.Logf("without KVM: %v", err)
		return nil
	}
	t.Cleanup(func() { system.Close() })
	vm, err := system.CreateVM()
	check(t, err)
	t.Cleanup(func() { vm.Close() })
	dev, err := vm.CreateVFIODevice()
	check(t, err)
	t.Cleanup(func() { dev.Close() })
	return dev
}

// edu is QEMU's educational device (docs/specs/edu.rst).
type edu struct {
	t *testing.T
	*Device
}

const (
	eduBuffer  = 0x40000
	eduToRAM   = 2
	eduFromRAM = 0
	// The device reaches 28 bits of addresses.
	labIOVA = 0x200000
	labHole = 0x800000
)

func labEdu(t *testing.T, s *Space, n Node) edu {
	t.Helper()
	e := edu{t, attach(t, s, n)}
	var command [2]byte
	if _, err := e.Config().ReadAt(command[:], 4); err != nil {
		t.Fatal(err)
	}
	command[0] |= 6 // memory, bus master
	if _, err := e.Config().WriteAt(command[:], 4); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e edu) read(off int64) uint32 {
	e.t.Helper()
	var b [4]byte
	if _, err := e.BAR(0).ReadAt(b[:], off); err != nil {
		e.t.Fatal(err)
	}
	return binary.LittleEndian.Uint32(b[:])
}

func (e edu) write(off int64, v uint64, width int) {
	e.t.Helper()
	b := binary.LittleEndian.AppendUint64(nil, v)
	if _, err := e.BAR(0).WriteAt(b[:width], off); err != nil {
		e.t.Fatal(err)
	}
}

// await waits until bits of a register are clear; the test's deadline ends it.
func (e edu) await(off int64, bits uint32) {
	for e.read(off)&bits != 0 {
		time.Sleep(time.Millisecond)
	}
}

// dma moves n bytes between RAM at an IOVA and the device's buffer, and waits for the end.
func (e edu) dma(from, to uint64, n, direction uint64) {
	e.t.Helper()
	e.write(0x80, from, 8)
	e.write(0x88, to, 8)
	e.write(0x90, n, 8)
	e.write(0x98, direction|1, 8)
	e.await(0x98, 1)
}

// roundTrip sends data to the device and back to another place of the mapped memory.
func (e edu) roundTrip(mem []byte, seed byte) {
	e.t.Helper()
	for i := range 256 {
		mem[i] = seed + byte(i)
	}
	clear(mem[4096:])
	e.dma(labIOVA, eduBuffer, 256, eduFromRAM)
	e.dma(eduBuffer, labIOVA+4096, 256, eduToRAM)
	if !bytes.Equal(mem[:256], mem[4096:4096+256]) {
		e.t.Errorf("DMA gave % x, want % x", mem[4096:4096+16], mem[:16])
	}
}

func TestLabRegisters(t *testing.T) {
	nodes := labNodes(t, "STILE_VFIO_EDU")
	forEachBackend(t, nodes, func(t *testing.T, b Backend) {
		s := labSpace(t, b)
		e := labEdu(t, s, nodes[0])
		if id := e.read(0); id != 0x010000ed {
			t.Errorf("identification %#x", id)
		}
		e.write(4, 0x12345678, 4)
		if v := e.read(4); v != ^uint32(0x12345678) {
			t.Errorf("liveness %#x", v)
		}
		e.write(8, 10, 4)
		e.await(0x20, 1)
		if v := e.read(8); v != 3628800 {
			t.Errorf("10! = %d", v)
		}
		areas := e.BAR(0).Areas()
		if len(areas) != 1 || areas[0] != (Area{0, 1 << 20}) {
			t.Fatalf("areas %+v of a BAR of %#x bytes", areas, e.BAR(0).Size())
		}
		m, err := e.BAR(0).Mmap(areas[0])
		check(t, err)
		if id := binary.LittleEndian.Uint32(m.Bytes()); id != 0x010000ed {
			t.Errorf("identification through the mapping %#x", id)
		}
		var vendor [4]byte
		if _, err := e.Config().ReadAt(vendor[:], 0); err != nil || binary.LittleEndian.Uint32(vendor[:]) != 0x11e81234 {
			t.Errorf("configuration space has % x, %v", vendor, err)
		}
		if err := e.Reset(); (err == nil) != e.CanReset() {
			t.Errorf("reset: %v, possible: %v", err, e.CanReset())
		}
		hot, err := e.HotResetInfo()
		if err != nil && !errors.Is(err, feature.ErrNotSupported) {
			t.Error(err)
		}
		t.Logf("limits %+v", s.Limits())
		t.Logf("interrupts %+v", e.irqs)
		t.Logf("hot reset %+v, %v", hot, err)
		t.Logf("ioctls: %v of the space, %v of the device", s.Stats().IOCTLs, e.Stats().IOCTLs)
	})
}

func TestLabDMA(t *testing.T) {
	nodes := labNodes(t, "STILE_VFIO_EDU")
	forEachBackend(t, nodes, func(t *testing.T, b Backend) {
		s := labSpace(t, b)
		e := labEdu(t, s, nodes[0])
		mem := memory(t, 8192)
		check(t, s.Map(labIOVA, mem, Read|Write))
		e.roundTrip(mem, 1)

		for i := range mem {
			mem[i] = 0xee
		}
		e.dma(eduBuffer, labHole, 256, eduToRAM)
		if bytes.ContainsFunc(mem, func(r rune) bool { return r == 0 }) || !bytes.Equal(mem, bytes.Repeat([]byte{0xee}, 8192)) {
			t.Error("DMA outside of the map wrote to the memory")
		}
		check(t, s.Unmap(labIOVA, 8192))
		e.dma(eduBuffer, labIOVA, 256, eduToRAM)
		if !bytes.Equal(mem, bytes.Repeat([]byte{0xee}, 8192)) {
			t.Error("DMA after Unmap wrote to the memory")
		}
		check(t, s.Map(labIOVA, mem, Read))
		e.dma(eduBuffer, labIOVA, 256, eduToRAM)
		if !bytes.Equal(mem, bytes.Repeat([]byte{0xee}, 8192)) {
			t.Error("DMA wrote to memory that is mapped for reading")
		}
		check(t, s.Unmap(labIOVA, 8192))

		// A device that comes back finds the maps.
		check(t, s.Map(labIOVA, mem, Read|Write))
		check(t, e.Close())
		labEdu(t, s, nodes[0]).roundTrip(mem, 77)
	})
}

// TestLabKernelRefusesMaps asks the kernel without our own checks before it.
func TestLabKernelRefusesMaps(t *testing.T) {
	nodes := labNodes(t, "STILE_VFIO_EDU")
	forEachBackend(t, nodes, func(t *testing.T, b Backend) {
		s := labSpace(t, b)
		d := attach(t, s, nodes[0])
		mem := memory(t, 8192)
		check(t, s.Map(labIOVA, mem, Read|Write))
		hole := memory(t, 8192)
		check(t, unix.Mprotect(hole, unix.PROT_NONE))
		for name, test := range map[string]struct {
			m    mapping
			want unix.Errno
		}{
			"overlap":    {mapping{labIOVA + 4096, mem, Read}, unix.EEXIST},
			"misaligned": {mapping{labHole + 64, mem, Read}, unix.EINVAL},
			"MSI window": {mapping{0xfee00000, mem, Read}, unix.EINVAL},
			"too wide":   {mapping{1 << 62, mem, Read}, unix.EINVAL},
			"no memory":  {mapping{labHole, hole, Read}, unix.EFAULT},
		} {
			if err := s.backend.mapDMA(test.m); !errors.Is(err, test.want) {
				t.Errorf("%s: %v, want %v", name, err, test.want)
			}
		}
		bar, err := d.BAR(0).Mmap(d.BAR(0).Areas()[0])
		check(t, err)
		err = s.MapPeer(0x10000000, bar.Bytes())
		t.Logf("peer-to-peer map: %v", err)
		if b == IOMMUFD && !errors.Is(err, feature.ErrNotSupported) {
			t.Errorf("peer-to-peer map: %v", err)
		}
	})
}

func labEventFD(t *testing.T) *sys.EventFD {
	t.Helper()
	e, err := sys.NewEventFD()
	check(t, err)
	t.Cleanup(func() { e.Close() })
	return e
}

// await waits for an eventfd, until the test's deadline.
func await(t *testing.T, e *sys.EventFD, what string) {
	t.Helper()
	if _, err := e.Wait(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func TestLabInterrupts(t *testing.T) {
	nodes := labNodes(t, "STILE_VFIO_EDU")
	forEachBackend(t, nodes, func(t *testing.T, b Backend) {
		e := labEdu(t, labSpace(t, b), nodes[0])
		trigger, unmask, req := labEventFD(t), labEventFD(t), labEventFD(t)
		check(t, e.Notify(Req, req.Int()))
		for range 2 { // from one kind to the other and back
			check(t, e.EnableMSI(MSI, []int{trigger.Int()}))
			e.write(0x60, 1, 4)
			await(t, trigger, "MSI")
			e.write(0x64, 1, 4)
			check(t, e.SetVector(0, -1))
			e.write(0x60, 1, 4)
			e.write(0x64, 1, 4)
			check(t, e.SetVector(0, trigger.Int()))

			check(t, e.EnableINTx(trigger.Int()))
			trigger.TryWait()
			check(t, e.SetUnmask(unmask.Int()))
			check(t, e.UnmaskINTx())
			e.write(0x60, 1, 4)
			await(t, trigger, "INTx")
			check(t, unmask.Signal()) // the device still asserts it
			await(t, trigger, "INTx after unmasking by eventfd")
			check(t, e.UnmaskINTx())
			if trigger.TryWait() == 0 {
				t.Error("INTx: an asserted interrupt does not come when unmasked")
			}
			e.write(0x64, 1, 4)
			check(t, e.UnmaskINTx())
			if trigger.TryWait() != 0 {
				t.Error("INTx: comes though the device does not assert it")
			}
			check(t, e.SetUnmask(-1))
		}
		check(t, e.DisableIRQs())
		if err := e.EnableMSI(MSIX, []int{trigger.Int()}); err == nil {
			t.Error("edu has no MSI-X")
		}
		check(t, e.EnableMSI(MSI, nil))
	})
}

// TestLabVectors adds MSI-X vectors one by one and has the kernel signal each.
func TestLabVectors(t *testing.T) {
	nodes := labNodes(t, "STILE_VFIO_MSIX")
	forEachBackend(t, nodes, func(t *testing.T, b Backend) {
		s := labSpace(t, b)
		d := attach(t, s, nodes[0])
		n := d.IRQInfo(MSIX).Count
		if n < 2 {
			t.Fatalf("%s has %d MSI-X vectors", d.Name(), n)
		}
		t.Logf("MSI-X %+v", d.IRQInfo(MSIX))
		check(t, d.EnableMSI(MSIX, nil))
		fds := make([]*sys.EventFD, n)
		for i := range fds {
			fds[i] = labEventFD(t)
			check(t, d.SetVector(i, fds[i].Int()))
		}
		check(t, d.SetVector(0, -1))
		if d.Vectors() != n {
			t.Errorf("%d vectors are allocated, want %d", d.Vectors(), n)
		}
		_, err := d.setIRQs(MSIX, triggerNone, 0, n)
		check(t, err)
		for i, e := range fds {
			if got, want := e.TryWait(), map[bool]uint64{true: 0, false: 1}[i == 0]; got != want {
				t.Errorf("vector %d was signalled %d times, want %d", i, got, want)
			}
		}
		t.Logf("ioctls %v", d.Stats().IOCTLs)
		for i := range 6 {
			t.Logf("BAR %d: %#x bytes, areas %v, MSI-X mappable %v", i, d.BAR(i).Size(), d.BAR(i).Areas(), d.BAR(i).MSIXMappable())
		}
		for _, number := range []uint16{vfio.FeaturePCIVFToken, vfio.FeatureMigration} {
			t.Logf("feature %d: %v", number, d.Feature(number, true, false))
		}
	})
}

// TestLabSecondUser opens what is open already, by either interface.
func TestLabSecondUser(t *testing.T) {
	nodes := labNodes(t, "STILE_VFIO_EDU")
	forEachBackend(t, nodes, func(t *testing.T, b Backend) {
		first := labSpace(t, b)
		d := attach(t, first, nodes[0])
		forEachBackend(t, nodes, func(t *testing.T, other Backend) {
			want := map[[2]Backend]unix.Errno{
				{Legacy, Legacy}: unix.EBUSY, {Legacy, IOMMUFD}: unix.EBUSY,
				{IOMMUFD, Legacy}: unix.EBUSY, {IOMMUFD, IOMMUFD}: unix.EINVAL,
			}[[2]Backend{b, other}]
			_, err := labSpace(t, other).Attach(nodes[0])
			if !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
			t.Log(err)
		})
		check(t, d.Close())
		check(t, first.Close())
		attach(t, labSpace(t, b), nodes[0])
	})
}

// TestLabGroup has several devices of one group in one Space, each with DMA, and resets them.
func TestLabGroup(t *testing.T) {
	nodes := labNodes(t, "STILE_VFIO_GROUP")
	forEachBackend(t, nodes, func(t *testing.T, b Backend) {
		s := labSpace(t, b)
		mem := memory(t, 8192)
		check(t, s.Map(labIOVA, mem, Read|Write))
		var devices []edu
		for _, n := range nodes {
			devices = append(devices, labEdu(t, s, n))
		}
		for i, e := range devices {
			e.roundTrip(mem, byte(10*i+3))
		}
		info, err := devices[0].HotResetInfo()
		check(t, err)
		t.Logf("hot reset affects %+v", info.Devices)
		if len(info.Devices) < len(nodes) {
			t.Errorf("a hot reset affects only %+v", info.Devices)
		}
		checkHotReset(t, devices[0].Device)
		check(t, devices[0].Close())
		for i, e := range devices[1:] {
			command := []byte{6, 0}
			if _, err := e.Config().WriteAt(command, 4); err != nil {
				t.Fatal(err)
			}
			e.roundTrip(mem, byte(20*i+5))
		}
	})
}

// TestLabMemlock maps more than an unprivileged thread may lock.
func TestLabMemlock(t *testing.T) {
	nodes := labNodes(t, "STILE_VFIO_EDU")
	forEachBackend(t, nodes, func(t *testing.T, b Backend) {
		s := labSpace(t, b)
		attach(t, s, nodes[0])
		var old unix.Rlimit
		check(t, unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old))
		check(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 64 << 10, Max: old.Max}))
		defer unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old)
		mem := memory(t, 1<<20)
		check(t, CheckMemlock(b, uint64(len(mem))))
		check(t, s.Map(labHole, mem, Read|Write))
		check(t, s.Unmap(labHole, uint64(len(mem))))

		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // never unlocked: the thread ends with its capabilities
			if err := dropLockCapability(); err != nil {
				t.Error(err)
				return
			}
			if err := CheckMemlock(b, uint64(len(mem))); err == nil {
				t.Error("the preflight sees no limit")
			}
			if err := CheckMemlock(b, 32<<10); err != nil {
				t.Errorf("32 KiB: %v", err)
			}
			err := s.Map(labHole, mem, Read|Write)
			if !errors.Is(err, unix.ENOMEM) || !strings.Contains(err.Error(), "LimitMEMLOCK=") {
				t.Errorf("map: %v", err)
			}
			t.Log(err)
			if err := s.Map(labHole, mem[:32<<10], Read|Write); err != nil {
				t.Errorf("map 32 KiB: %v", err)
			}
		}()
		<-done
	})
}

func dropLockCapability() error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&h, &caps[0]); err != nil {
		return err
	}
	caps[0].Effective &^= 1 << unix.CAP_IPC_LOCK
	return unix.Capset(&h, &caps[0])
}
