package disk

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// makeFile writes an image and returns its path.
func makeFile(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// random returns n bytes that are always the same for a seed.
func random(seed byte, n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

func mustOpen(t testing.TB, o Options) Image {
	t.Helper()
	img, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	})
	return img
}

// content reads a whole image, in pieces that fit no boundary.
func content(t testing.TB, img Image) []byte {
	t.Helper()
	data := make([]byte, img.Size())
	for off := int64(0); off < img.Size(); {
		n := min(37*SectorSize, img.Size()-off)
		p := data[off : off+n]
		third := n / 3
		if err := img.ReadAt([][]byte{p[:third], nil, p[third : third+1], p[third+1:]}, off); err != nil {
			t.Fatal(err)
		}
		off += n
	}
	return data
}

// playChanges plays random changes to an image and to bytes in memory.
func playChanges(t *testing.T, img Image, model []byte, seed byte) {
	t.Helper()
	r := rand.New(rand.NewChaCha8([32]byte{seed}))
	sectors := int64(len(model)) / SectorSize
	for i := range 400 {
		at := r.Int64N(sectors)
		n := min(r.Int64N(40)+1, sectors-at)
		off, size := at*SectorSize, n*SectorSize
		part := model[off : off+size]
		var err error
		switch r.IntN(4) {
		case 0:
			err = img.WriteZeroes(off, size, i%2 == 0)
			clear(part)
		case 1:
			got := make([]byte, size)
			if err = img.ReadAt([][]byte{got}, off); !bytes.Equal(got, part) {
				t.Fatalf("step %d: read of %d sectors at %d differs", i, n, at)
			}
		default:
			data := random(byte(i), int(size))
			copy(part, data)
			cut := r.Int64N(size)
			err = img.WriteAt([][]byte{data[:cut], data[cut:]}, off)
		}
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	if !bytes.Equal(content(t, img), model) {
		t.Error("the disk differs in the end")
	}
}

func TestRaw(t *testing.T) {
	data := random(1, 3<<20)
	for _, direct := range []bool{false, true} {
		path := makeFile(t, "a,b.img", data)
		img, err := Open(Options{Path: path, Direct: direct})
		if direct && err != nil {
			t.Logf("no O_DIRECT here: %v", err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		model := bytes.Clone(data)
		if !bytes.Equal(content(t, img), model) {
			t.Error("content differs")
		}
		playChanges(t, img, model, 2)
		if err := errors.Join(img.Discard(0, img.Size()), img.Flush(), img.Resize(8<<20)); err != nil {
			t.Error(err)
		}
		if img.Size() != 8<<20 {
			t.Errorf("size %d", img.Size())
		}
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestRawKeepsWhatWasWritten(t *testing.T) {
	path := makeFile(t, "disk", make([]byte, 1<<20))
	img := mustOpen(t, Options{Path: path})
	model := make([]byte, 1<<20)
	playChanges(t, img, model, 3)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, model) {
		t.Errorf("the file is not what was written (%v)", err)
	}
}

// A file that ends within a sector has zeroes there; one that is cut while it is used is an error.
func TestRawEnd(t *testing.T) {
	path := makeFile(t, "odd", bytes.Repeat([]byte{7}, 1000))
	img := mustOpen(t, Options{Path: path})
	if img.Size() != 1024 {
		t.Fatalf("size %d", img.Size())
	}
	want := append(bytes.Repeat([]byte{7}, 1000), make([]byte, 24)...)
	if !bytes.Equal(content(t, img), want) {
		t.Error("the end is not zero")
	}
	for _, off := range []int64{-512, 512 + 1, 1024, 1 << 62} {
		if err := img.ReadAt([][]byte{make([]byte, 512)}, off); !errors.Is(err, errRange) {
			t.Errorf("read at %d: %v", off, err)
		}
	}
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if err := img.ReadAt([][]byte{make([]byte, 512)}, 512); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read of what was cut off: %v", err)
	}
}

func TestCOW(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for _, size := range []int{1 << 20, 1<<20 + 512, 1000} {
		data := random(4, size)
		path := makeFile(t, "base", data)
		img := mustOpen(t, Options{Path: path, COW: true})
		model := make([]byte, img.Size())
		copy(model, data)
		playChanges(t, img, model, 5)
		for _, r := range [][2]int64{{0, 512}, {0, 8192}, {512, img.Size() - 512}} {
			if r[0]+r[1] <= img.Size() {
				if err := img.Discard(r[0], r[1]); err != nil {
					t.Error(err)
				}
			}
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
			t.Errorf("the image was changed (%v)", err)
		}
		if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) != 0 {
			t.Errorf("files are left: %v", left)
		}
	}
}

// Two writers of parts of one block both find their part again.
func TestCOWWritersOfOneBlock(t *testing.T) {
	base := random(6, 1<<20)
	img := mustOpen(t, Options{Path: makeFile(t, "base", base), COW: true})
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			data := bytes.Repeat([]byte{byte(w + 1)}, SectorSize)
			for off := int64(w) * SectorSize; off < img.Size(); off += cowBlock {
				if err := img.WriteAt([][]byte{data}, off); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	for i, b := range content(t, img) {
		if want := byte(i/SectorSize%8 + 1); b != want {
			t.Fatalf("byte %d is %d, want %d", i, b, want)
		}
	}
}

func TestReadOnly(t *testing.T) {
	path := makeFile(t, "disk", random(7, 4096))
	img := mustOpen(t, Options{Path: path, ReadOnly: true})
	p := [][]byte{make([]byte, 512)}
	for name, err := range map[string]error{
		"write": img.WriteAt(p, 0), "discard": img.Discard(0, 512), "zero": img.WriteZeroes(0, 512, true), "resize": img.Resize(512),
	} {
		if !errors.Is(err, ErrReadOnly) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := img.Flush(); err != nil || !img.ReadOnly() {
		t.Errorf("%v, read-only %v", err, img.ReadOnly())
	}
}

// A guest must not decide what its raw image is taken for the next time.
func TestGuessedRawKeepsItsFormat(t *testing.T) {
	sector := make([]byte, 8192)
	copy(sector, qcow2Magic)
	for _, tt := range []struct {
		o  Options
		ok bool
	}{{Options{}, false}, {Options{Format: Raw}, true}, {Options{COW: true}, true}} {
		tt.o.Path = makeFile(t, "disk", make([]byte, 1<<20))
		img := mustOpen(t, tt.o)
		err := img.WriteAt([][]byte{sector[:2], sector[2:]}, 0)
		if (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt.o, err)
		}
		if err := img.WriteAt([][]byte{sector}, 4096); err != nil {
			t.Error(err)
		}
		if err := img.WriteAt([][]byte{random(1, 1024)}, 0); err != nil {
			t.Error(err)
		}
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	plain := makeFile(t, "plain", make([]byte, 4096))
	for _, tt := range []struct {
		o    Options
		want string
	}{
		{Options{}, "without a path"},
		{Options{Path: filepath.Join(dir, "none")}, "no such file"},
		{Options{Path: dir}, "is a folder"},
		{Options{Path: fifo}, "neither a regular file"},
		{Options{Path: "/dev/null"}, "neither a regular file"},
		{Options{Path: makeFile(t, "empty", nil)}, "truncate -s"},
		{Options{Path: plain, Format: "vmdk"}, "unknown format"},
		{Options{Path: plain, ReadOnly: true, COW: true}, "exclude each other"},
		{Options{Path: plain, COW: true, Direct: true}, "exclude each other"},
		{Options{Path: plain, Format: QCOW2, ReadOnly: true}, "is not a qcow2 image"},
		{Options{Path: makeFile(t, "q", testImage(nil))}, "add cow"},
	} {
		img, err := Open(tt.o)
		if err == nil {
			img.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q in it", tt.o, err, tt.want)
		}
	}
}

func TestLocks(t *testing.T) {
	path := makeFile(t, "disk", make([]byte, 4096))
	writes, reads, throws := Options{Path: path}, Options{Path: path, ReadOnly: true}, Options{Path: path, COW: true}
	for _, tt := range []struct {
		first, second Options
		ok            bool
	}{
		{writes, writes, false}, {writes, reads, false}, {reads, writes, false}, {throws, writes, false},
		{reads, reads, true}, {throws, reads, true}, {throws, throws, true},
	} {
		first, err := Open(tt.first)
		if err != nil {
			t.Fatal(err)
		}
		second, err := Open(tt.second)
		if (err == nil) != tt.ok {
			t.Errorf("%+v after %+v: %v", tt.second, tt.first, err)
		}
		if err != nil && (!errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "this stile itself")) {
			t.Errorf("the error does not say who has it: %v", err)
		}
		if err == nil {
			second.Close()
		}
		first.Close()
		if again, err := Open(tt.second); err != nil {
			t.Errorf("after it was closed: %v", err)
		} else {
			again.Close()
		}
	}
}

func BenchmarkRead(b *testing.B) {
	b.Setenv("TMPDIR", b.TempDir())
	data := random(1, 1<<20)
	raw := makeFile(b, "raw", data)
	for _, bench := range []struct {
		name string
		o    Options
	}{
		{"raw", Options{Path: raw, ReadOnly: true}},
		{"cow", Options{Path: raw, COW: true}},
		{"qcow2", Options{Path: makeFile(b, "qcow2", testImage(data)), ReadOnly: true}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			img := mustOpen(b, bench.o)
			bufs := [][]byte{make([]byte, 4096)}
			b.ReportAllocs()
			for i := range b.N {
				if err := img.ReadAt(bufs, int64(i%256)*4096); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
