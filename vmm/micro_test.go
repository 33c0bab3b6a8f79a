package vmm_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stile-vmm/stile/vmm"
)

// microBase is where micro-guests are loaded, guest-physical.
const microBase = 0x100000

// microKernel writes an ELF64 kernel whose entry point is code, entered in 64-bit mode.
func microKernel(t testing.TB, code []byte) string {
	t.Helper()
	const ehdr, phdr = 64, 56
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	write := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	write([]uint16{2, 62}) // ET_EXEC, EM_X86_64
	write(uint32(1))
	write([]uint64{microBase, ehdr, 0})
	write(uint32(0))
	write([]uint16{ehdr, phdr, 1, 0, 0, 0})
	write([]uint32{1, 5}) // PT_LOAD, R+X
	write([]uint64{ehdr + phdr, microBase, microBase, uint64(len(code)), uint64(len(code)), 0x1000})
	b.Write(code)
	path := filepath.Join(t.TempDir(), "micro.elf")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// afterExceptions takes an exception by a table of its own, and then reads from a page where nothing is,
// 20 times: the read's exit is the first that there is after the exception.
var afterExceptions = []byte{
	0x48, 0x8d, 0x05, 0x4f, 0x00, 0x00, 0x00, // lea 0x4f(%rip),%rax
	0xbf, 0x00, 0x00, 0x20, 0x00, // mov $0x200000,%edi
	0x66, 0x89, 0x47, 0x60, // mov %ax,0x60(%rdi)
	0x8c, 0xc9, // mov %cs,%ecx
	0x66, 0x89, 0x4f, 0x62, // mov %cx,0x62(%rdi)
	0x66, 0xc7, 0x47, 0x64, 0x00, 0x8e, // movw $0x8e00,0x64(%rdi)
	0xc1, 0xe8, 0x10, // shr $0x10,%eax
	0x66, 0x89, 0x47, 0x66, // mov %ax,0x66(%rdi)
	0x66, 0xc7, 0x87, 0x00, 0x10, 0x00, 0x00, 0xff, 0x00, // movw $0xff,0x1000(%rdi)
	0x48, 0x89, 0xbf, 0x02, 0x10, 0x00, 0x00, // mov %rdi,0x1002(%rdi)
	0x0f, 0x01, 0x9f, 0x00, 0x10, 0x00, 0x00, // lidt 0x1000(%rdi)
	0xbb, 0x00, 0x00, 0x00, 0xd0, // mov $0xd0000000,%ebx
	0xb9, 0x14, 0x00, 0x00, 0x00, // mov $20,%ecx
	0x0f, 0x0b, // ud2
	0x8b, 0x03, // mov (%rbx),%eax
	0x81, 0xc3, 0x00, 0x10, 0x00, 0x00, // add $0x1000,%ebx
	0xff, 0xc9, // dec %ecx
	0x75, 0xf2, // jne 0x44
	0xb0, 0x2a, // mov $42,%al
	0xe6, 0xf4, // out %al,$0xf4
	0x48, 0x83, 0x04, 0x24, 0x02, // addq $2,(%rsp)
	0x48, 0xcf, // iretq
}

// TestAccessAfterException: on nested KVM such a read can be refused at first, see delivery.
func TestAccessAfterException(t *testing.T) {
	result, vm := runMicro(t, vmm.Config{}, afterExceptions, 20*time.Second)
	stats := vm.Stats()
	if result.Reason != vmm.DebugExit || result.Code != 42 || stats.Exits["mmio"] != 20 {
		t.Errorf("ended by %+v after %v; want 20 reads and code 42", result, stats.Exits)
	}
	if stats.SpuriousErrors > 20 || stats.SpuriousErrors != stats.Exits["internal-error"] {
		t.Errorf("%d spurious errors counted, %v", stats.SpuriousErrors, stats.Exits)
	}
	t.Logf("%d spurious errors", stats.SpuriousErrors)
}
