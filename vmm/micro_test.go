package vmm_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
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
