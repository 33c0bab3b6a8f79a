package boot_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/stile-vmm/stile/boot"
	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/layout"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/kvm"
)

const (
	guestRAM  = 4 * layout.MiB
	testPort  = 0x510
	exitLimit = 10 * time.Second // generous: only a hang should meet it
)

// elfKernel is a kernel at 1 MiB that starts with code, in 64-bit mode or by PVH.
func elfKernel(code []byte, pvh bool) []byte {
	le := binary.LittleEndian
	note := []byte("\x04\x00\x00\x00\x08\x00\x00\x00\x12\x00\x00\x00Xen\x00\x00\x00\x10\x00\x00\x00\x00\x00")
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	h[16], h[18] = 2, 62
	le.PutUint64(h[24:], layout.HighRAM)
	le.PutUint64(h[32:], 64)
	h[54], h[56] = 56, 1
	if pvh {
		h[56] = 2
	}
	text := uint64(64 + 2*56 + len(note))
	h = appendProg(h, 1, text, layout.HighRAM, uint64(len(code)))
	h = appendProg(h, 4, 64+2*56, 0, uint64(len(note)))
	return slices.Concat(h, note, code)
}

func appendProg(h []byte, typ uint32, off, addr, size uint64) []byte {
	le := binary.LittleEndian
	h = le.AppendUint32(h, typ)
	h = le.AppendUint32(h, 7)
	for _, v := range []uint64{off, addr, addr, size, size, 4} {
		h = le.AppendUint64(h, v)
	}
	return h
}

// code64 sends what it finds to testPort: CS and DS as set and as loaded from the GDT,
// a value that only 64-bit registers hold, one through the stack, and from the zero
// page its boot flag.
func code64() []byte {
	reload := uint32(layout.HighRAM + 14)
	return slices.Concat(
		[]byte{0x66, 0xba, 0x10, 0x05, 0x6a, 0x10, 0x68}, // mov $testPort,%dx; push $0x10; push $reload
		binary.LittleEndian.AppendUint32(nil, reload),
		[]byte{
			0x48, 0xcb, // lretq
			0xf4, // hlt
			// reload:
			0x8c, 0xc8, 0x66, 0xef, // mov %cs,%eax; out %ax,(%dx)
			0x8c, 0xd8, 0x66, 0xef, // mov %ds,%eax; out
			0xb9, 0x18, 0, 0, 0, 0x8e, 0xd1, // mov $0x18,%ecx; mov %ecx,%ss
			0x8c, 0xd0, 0x66, 0xef, // mov %ss,%eax; out
			0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0x34, 0x12, // mov $0x1234000000000000,%rax
			0x50, 0x5b, // push %rax; pop %rbx
			0x48, 0x89, 0xd8, 0x48, 0xc1, 0xe8, 0x30, 0x66, 0xef, // mov %rbx,%rax; shr $48,%rax; out
			0x0f, 0xb7, 0x86, 0xfe, 0x01, 0, 0, 0x66, 0xef, // movzwl 0x1fe(%rsi),%eax; out
			0xf4, // hlt
		})
}

// code32 sends CS and DS, and the start info's magic number in two halves.
func code32() []byte {
	return []byte{
		0x66, 0xba, 0x10, 0x05, // mov $testPort,%dx
		0x8c, 0xc8, 0x66, 0xef, // mov %cs,%eax; out %ax,(%dx)
		0x8c, 0xd8, 0x66, 0xef, // mov %ds,%eax; out
		0xb9, 0x18, 0, 0, 0, 0x8e, 0xd1, // mov $0x18,%ecx; mov %ecx,%ss
		0x8b, 0x03, 0x66, 0xef, // mov (%ebx),%eax; out
		0xc1, 0xe8, 0x10, 0x66, 0xef, // shr $16,%eax; out
		0x0f, 0x20, 0xc0, 0xc1, 0xe8, 0x1f, 0x66, 0xef, // mov %cr0,%eax; shr $31,%eax; out
		0xf4, // hlt
	}
}

// TestEnter runs a kernel of a few instructions from the state that Load gives.
func TestEnter(t *testing.T) {
	testenv.KVM(t)
	tests := []struct {
		name string
		code []byte
		pvh  bool
		mode boot.Mode
		want []uint16
	}{
		{"64-bit", code64(), false, boot.Long64, []uint16{0x10, 0x18, 0x18, 0x1234, 0xaa55}},
		{"PVH", code32(), true, boot.Protected32, []uint16{0x10, 0x18, 0xc578, 0x336e, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			image := elfKernel(tt.code, tt.pvh)
			k, err := boot.NewKernel("test", bytes.NewReader(image), int64(len(image)))
			check(t, err)
			mem, err := guestmem.New(layout.RAM(guestRAM))
			check(t, err)
			t.Cleanup(func() { check(t, mem.Close()) })
			e, err := boot.Load(mem, k, boot.Options{})
			check(t, err)
			if e.Mode != tt.mode {
				t.Fatalf("mode %v, want %v", e.Mode, tt.mode)
			}
			if got := outputs(t, newVCPU(t, mem, e)); !slices.Equal(got, tt.want) {
				t.Errorf("the guest sent %#x, want %#x", got, tt.want)
			}
		})
	}
}

// newVCPU makes a VM of one vCPU that starts at e.
func newVCPU(t *testing.T, mem *guestmem.Memory, e boot.Entry) *kvm.VCPU {
	t.Helper()
	system, err := kvm.Open()
	check(t, err)
	t.Cleanup(func() { check(t, system.Close()) })
	vm, err := system.CreateVM()
	check(t, err)
	t.Cleanup(func() { check(t, vm.Close()) })
	r := mem.Regions()[0]
	check(t, vm.SetMemorySlot(kvm.MemorySlot{Size: uint64(len(r.Bytes)), Host: r.Addr()}))
	check(t, vm.SetIdentityMapAddr(layout.IdentityMap))
	check(t, vm.SetTSSAddr(layout.TSS))
	c, err := vm.CreateVCPU(0)
	check(t, err)
	t.Cleanup(func() { check(t, c.Close()) })
	supported, err := system.SupportedCPUID()
	check(t, err)
	check(t, c.SetCPUID(kvm.GuestCPUID(supported, kvm.CPUIDOptions{})))
	s, err := c.Sregs()
	check(t, err)
	s.CR0, s.CR3, s.CR4, s.EFER = e.CR0, e.CR3, e.CR4, e.EFER
	s.GDT.Base, s.GDT.Limit = e.GDT.Base, e.GDT.Limit
	s.CS, s.TR = segment(e.CS), segment(e.TR)
	data := segment(e.Data)
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	check(t, c.SetSregs(s))
	check(t, c.SetRegs(&kvm.Regs{RIP: e.RIP, RSP: e.RSP, RSI: e.RSI, RBX: e.RBX, RFLAGS: e.RFLAGS}))
	return c
}

func segment(s boot.SegmentRegister) kvm.Segment {
	return kvm.Segment{
		Base: s.Base, Limit: s.Limit, Selector: s.Selector, Typ: s.Type, Present: s.Present, DPL: s.DPL,
		DB: s.DB, S: s.S, L: s.L, G: s.G, AVL: s.AVL,
	}
}

// outputs runs the guest up to HLT and returns the words it wrote to testPort.
func outputs(t *testing.T, c *kvm.VCPU) (words []uint16) {
	t.Helper()
	c.Bind()
	defer c.Unbind()
	stop := time.AfterFunc(exitLimit, func() { c.Kick() })
	defer stop.Stop()
	for len(words) < 100 {
		exit, err := c.Run()
		check(t, err)
		switch exit.Reason {
		case kvm.ExitHLT:
			return words
		case kvm.ExitIO:
			if io := exit.IO(); io.Out && io.Size == 2 && io.Port == testPort {
				words = append(words, binary.LittleEndian.Uint16(io.Data))
			}
		default:
			t.Fatalf("exit: %v after %#x\n%s", exit, words, c.Describe())
		}
	}
	t.Fatal("the guest does not stop")
	return nil
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
