package kvm

import (
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/sys"
)

func benchmarkExit(b *testing.B, want Reason, loop []byte) {
	g := newGuest(b, false)
	c := g.vcpu(0)
	g.longMode(c, loop)
	g.next(c, want)
	b.ReportAllocs()
	sum := 0
	for b.Loop() {
		exit, err := c.Run()
		if err != nil || exit.Reason != want {
			b.Fatalf("exit %v, %v", exit, err)
		}
		if want == ExitIO {
			sum += len(exit.IO().Data)
		} else {
			sum += len(exit.MMIO().Data)
		}
	}
	if sum == 0 {
		b.Error("no data")
	}
}

func BenchmarkExitPIO(b *testing.B) {
	// mov dx, testPort; out dx, eax; jmp to out
	benchmarkExit(b, ExitIO, code(0x66, 0xba, uint16(testPort), 0xef, 0xeb, 0xfd))
}

func BenchmarkExitMMIO(b *testing.B) {
	// mov ebx, mmioAddr; mov [rbx], eax; jmp to mov
	benchmarkExit(b, ExitMMIO, code(0xbb, uint32(mmioAddr), 0x89, 0x03, 0xeb, 0xfc))
}

// BenchmarkIRQFD takes an MSI's way from an eventfd to a halted guest's handler and back
// to this process by a port write.
func BenchmarkIRQFD(b *testing.B) {
	g, r := waiting(b)
	gsi, err := g.vm.Routing().AllocGSI()
	check(b, err)
	check(b, g.vm.Routing().SetMSI(gsi, msi(testVector)))
	check(b, g.vm.Routing().Commit())
	e := g.eventFD()
	check(b, g.vm.AttachIRQFD(gsi, e.Int(), NoResample))
	for b.Loop() {
		check(b, e.Signal())
		r.wantOut(testVector)
	}
}

func BenchmarkKick(b *testing.B) {
	g := newGuest(b, false)
	c := g.unbound(0)
	g.longMode(c, spin)
	r := g.start(c, nil)
	for b.Loop() {
		check(b, c.Kick())
		<-r.kicks
	}
}

// BenchmarkVMToFirstExit makes a VM with 128 MiB as a boot does: memory, interrupt
// controllers, vCPU, first exit. ns/op has the way down too, ns/first-exit has not.
func BenchmarkVMToFirstExit(b *testing.B) {
	const size = 128 << 20
	s := newSystem(b)
	supported, err := s.SupportedCPUID()
	check(b, err)
	entries := GuestCPUID(supported, CPUIDOptions{VCPUs: 1})
	var up time.Duration
	for b.Loop() {
		start := time.Now()
		ram, err := sys.MapAnonymous(size)
		check(b, err)
		vm, err := s.CreateVM()
		check(b, err)
		check(b, vm.SetMemorySlot(MemorySlot{Size: size, Host: ram.Addr()}))
		check(b, vm.CreateIRQChip())
		c, err := vm.CreateVCPU(0)
		check(b, err)
		check(b, c.SetCPUID(entries))
		g := &guest{t: b, sys: s, vm: vm, ram: ram.Bytes()}
		g.longMode(c, code(0xe6, 0x10)) // out 0x10, al
		c.Bind()
		g.next(c, ExitIO)
		up += time.Since(start)
		c.Unbind()
		check(b, c.Close())
		check(b, vm.Close())
		check(b, ram.Close())
	}
	b.ReportMetric(float64(up.Nanoseconds())/float64(b.N), "ns/first-exit")
}

func BenchmarkRoutingCommit(b *testing.B) {
	g := newGuest(b, true)
	gsi, err := g.vm.Routing().AllocGSI()
	check(b, err)
	b.ReportAllocs()
	for i := uint32(0); b.Loop(); i++ {
		check(b, g.vm.Routing().SetMSI(gsi, MSI{Address: lapicGPA, Data: i & 0xff}))
		check(b, g.vm.Routing().Commit())
	}
}
