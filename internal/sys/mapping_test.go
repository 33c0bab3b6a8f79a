package sys_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/sys"
	"golang.org/x/sys/unix"
)

// TestMapAligned: the mapping lies where it was asked for, shows the file's bytes from the offset on, and leaves nothing
// of the address space around it taken.
func TestMapAligned(t *testing.T) {
	const page, large = 4096, 2 << 20
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := sys.NewFD(fd, "test")
	defer f.Close()
	if err := unix.Ftruncate(fd, 16*page); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Pwrite(fd, []byte{42}, 3*page); err != nil {
		t.Fatal(err)
	}
	for _, phase := range []uintptr{0, 3 * page, large - page} {
		m, err := sys.MapAligned(f, 3*page, 4*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED, large, phase)
		if err != nil {
			t.Fatal(err)
		}
		if m.Addr()%large != phase || len(m.Bytes()) != 4*page || m.Bytes()[0] != 42 {
			t.Errorf("%d bytes at %#x, phase %#x, the first is %d", len(m.Bytes()), m.Addr(), phase, m.Bytes()[0])
		}
		at := m.Addr()
		if !mapped(t, at) || mapped(t, at+4*page) {
			t.Errorf("phase %#x: the reservation behind the mapping is left", phase)
		}
		if err := m.Close(); err != nil || mapped(t, at) {
			t.Errorf("phase %#x: closed, %v, and still mapped", phase, err)
		}
	}
	if _, err := sys.MapAligned(f, 0, page, 0, 0, large, 0); err == nil {
		t.Error("neither shared nor private")
	}
}

// mapped reports whether something of this process is at an address.
func mapped(t *testing.T, addr uintptr) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var start, end uintptr
		if _, err := fmt.Sscanf(line, "%x-%x", &start, &end); err != nil {
			t.Fatal(err)
		}
		if start <= addr && addr < end {
			return true
		}
	}
	return false
}
