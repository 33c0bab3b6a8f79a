package boot

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/layout"
	"github.com/stile-vmm/stile/internal/testenv"
)

// realKernel opens the kernel in the Go module that is the default guest's.
func realKernel(t testing.TB) *Kernel {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/gokrazy/kernel.amd64").Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		testenv.Missing(t, "kernel", "module github.com/gokrazy/kernel.amd64 is not in the module cache")
	}
	k, err := Open(filepath.Join(dir, "vmlinuz"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func TestRealKernel(t *testing.T) {
	testenv.Short(t)
	bz := realKernel(t)
	if bz.Format() != BzImage || bz.Compression() != "zstd" {
		t.Fatalf("%v with %q payload", bz.Format(), bz.Compression())
	}
	path := filepath.Join(t.TempDir(), "vmlinux")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := bz.UnpackFile(f); err != nil {
		t.Fatal(err)
	}
	v, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if v.Format() != ELF || !v.Linux() || v.Size() != bz.UnpackedSize() {
		t.Errorf("%v, Linux %v, %d bytes of %d", v.Format(), v.Linux(), v.Size(), bz.UnpackedSize())
	}
	if v.End() > bz.End() {
		t.Errorf("vmlinux ends at %#x, behind what the bzImage asks for, %#x", v.End(), bz.End())
	}
	mem := newMemory(t, lowRange(256*layout.MiB))
	e, err := Load(mem, v, Options{Cmdline: "quiet"})
	if err != nil {
		t.Fatal(err)
	}
	if e.Mode != Long64 || !v.elf.contains(e.RIP) {
		t.Errorf("%v entry at %#x", e.Mode, e.RIP)
	}
	if e, err = Load(mem, bz, Options{}); err != nil || e.RIP != layout.KernelEntry+0x200 {
		t.Errorf("bzImage: entry at %#x, %v", e.RIP, err)
	}
}

func BenchmarkLoad(b *testing.B) {
	k := newKernel(b, testELF{entry: 0x1000000, segments: []testSegment{{phys: 0x1000000, data: make([]byte, 16*layout.MiB)}}}.bytes())
	mem := newMemory(b, lowRange(64*layout.MiB))
	b.SetBytes(16 * layout.MiB)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Load(mem, k, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnpackReal(b *testing.B) {
	k := realKernel(b)
	b.SetBytes(k.UnpackedSize())
	for b.Loop() {
		if err := k.Unpack(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}
