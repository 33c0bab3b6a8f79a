package boot

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stile-vmm/stile/internal/layout"
)

// holey is an ELF kernel with long runs of zeros in and at the end of its segment.
func holey() []byte {
	data := make([]byte, layout.MiB)
	copy(data[300000:], "data after zeros")
	copy(data[holeBlock*40:], bytes.Repeat([]byte("x"), 3*holeBlock))
	return append(testELF{entry: layout.HighRAM, segments: []testSegment{{phys: layout.HighRAM, data: data}}}.bytes(), make([]byte, 100000)...)
}

func tempFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "vmlinux"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestUnpackFile(t *testing.T) {
	want := holey()
	f := tempFile(t)
	if err := newKernel(t, smallBzImage(appendSize(want, len(want))).bytes()).UnpackFile(f); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("the file's %d bytes differ from the %d of the kernel", len(got), len(want))
	}
	k, err := Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	mem := newMemory(t, lowRange(4*layout.MiB))
	if _, err := Load(mem, k, Options{}); err != nil {
		t.Fatal(err)
	}
	s := k.Segments()[0]
	if got := guestBytes(t, mem, s.Addr, int(s.FileSize)); !bytes.Equal(got, want[s.Offset:s.Offset+int64(s.FileSize)]) {
		t.Error("the segment in guest memory differs from the file's")
	}
}

func TestSparseWriterInPieces(t *testing.T) {
	want := holey()
	for _, piece := range []int{1000, holeBlock, holeBlock + 1, len(want)} {
		f := tempFile(t)
		w := &sparseWriter{f: f}
		for off := 0; off < len(want); off += piece {
			p := want[off:min(off+piece, len(want))]
			if n, err := w.Write(p); n != len(p) || err != nil {
				t.Fatalf("pieces of %d: %d, %v", piece, n, err)
			}
		}
		if err := f.Truncate(w.off); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("pieces of %d: %d bytes that differ, %v", piece, len(got), err)
		}
	}
}

func TestLoadFileThatShrank(t *testing.T) {
	f := tempFile(t)
	if _, err := f.Write(holey()); err != nil {
		t.Fatal(err)
	}
	k, err := Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(newMemory(t, lowRange(4*layout.MiB)), k, Options{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}
