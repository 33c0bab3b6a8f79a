package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/testenv"
)

const testCluster = 4096

// testImage returns a qcow2 image of version 3 with the data, whose size it has or else 1 MiB.
func testImage(data []byte) []byte {
	size := uint64(1 << 20)
	if len(data) > 0 {
		size = uint64(len(data))
	}
	perTable := uint64(testCluster / 8)
	clusters := size / testCluster
	tables := (clusters + perTable - 1) / perTable
	be := binary.BigEndian
	img := make([]byte, (2+tables)*testCluster, (2+tables)*testCluster+size)
	copy(img, qcow2Magic)
	be.PutUint32(img[4:], 3)
	be.PutUint32(img[20:], 12)
	be.PutUint64(img[24:], size)
	be.PutUint32(img[36:], uint32(tables))
	be.PutUint64(img[40:], testCluster)
	be.PutUint32(img[96:], 4)
	be.PutUint32(img[100:], 104)
	for i := range tables {
		be.PutUint64(img[testCluster+8*i:], (2+i)*testCluster|1<<63)
	}
	for i := uint64(0); len(data) > 0 && i < clusters; i++ {
		be.PutUint64(img[2*testCluster+8*i:], uint64(len(img))|1<<63)
		img = append(img, data[:testCluster]...)
		data = data[testCluster:]
	}
	return img
}

func TestQCOW2Plain(t *testing.T) {
	data := random(9, 3<<20)
	img := mustOpen(t, Options{Path: makeFile(t, "q", testImage(data)), ReadOnly: true})
	if !bytes.Equal(content(t, img), data) {
		t.Error("content differs")
	}
}

// qemuImg runs qemu-img, or skips the test.
func qemuImg(t *testing.T, dir string, args ...string) {
	t.Helper()
	path, err := exec.LookPath("qemu-img")
	if err != nil {
		testenv.Missing(t, "qemu-img", err.Error())
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %q: %v: %s", args, err, out)
	}
}

// TestQEMUImages compares images that qemu-img made, sector by sector.
func TestQEMUImages(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	// Data, zeroes and what packs well, with edges that are no cluster's.
	data := make([]byte, 6<<20)
	copy(data[100<<10:], random(1, 1<<20))
	copy(data[3<<20+512:], bytes.Repeat([]byte("stile "), 200<<10))
	copy(data[len(data)-1024:], random(2, 1024))
	if err := os.WriteFile(filepath.Join(dir, "raw"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, options := range map[string]string{
		"v2": "compat=0.10", "v3": "compat=1.1", "small clusters": "cluster_size=512", "large clusters": "cluster_size=2M",
		"lazy": "compat=1.1,lazy_refcounts=on", "preallocated": "preallocation=metadata",
	} {
		qemuImg(t, dir, "convert", "-f", "raw", "-O", "qcow2", "-o", options, "raw", name)
		checkImage(t, filepath.Join(dir, name), data)
	}
	for name, options := range map[string]string{
		"zlib": "compat=1.1", "zlib v2": "compat=0.10", "zstd": "compression_type=zstd", "zstd large": "compression_type=zstd,cluster_size=2M",
		"zlib small": "cluster_size=4096",
	} {
		qemuImg(t, dir, "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, "raw", name)
		checkImage(t, filepath.Join(dir, name), data)
	}
	// Backing files beside the image: qcow2 on qcow2 on raw, the upper ones larger.
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	qemuImg(t, sub, "create", "-f", "qcow2", "-b", "../raw", "-F", "raw", "middle", "8M")
	qemuImg(t, sub, "create", "-f", "qcow2", "-b", "middle", "-F", "qcow2", "top", "9M")
	larger := append(bytes.Clone(data), make([]byte, 3<<20)...)
	checkImage(t, filepath.Join(sub, "top"), larger, filepath.Join(dir, "raw"))
	// What stile reads of it is what qemu-img reads, too.
	qemuImg(t, sub, "convert", "-O", "raw", "top", "flat")
	if flat, err := os.ReadFile(filepath.Join(sub, "flat")); err != nil || !bytes.Equal(flat, larger) {
		t.Errorf("qemu-img reads something else (%v)", err)
	}
}

// checkImage compares the image's content, and its content under changes that are thrown away.
func checkImage(t *testing.T, path string, want []byte, backing ...string) {
	t.Helper()
	allowed := strings.Join(backing, "")
	img := mustOpen(t, Options{Path: path, ReadOnly: true, Backing: allowed})
	if !bytes.Equal(content(t, img), want) {
		t.Errorf("%s: content differs", filepath.Base(path))
	}
	playChanges(t, mustOpen(t, Options{Path: path, COW: true, Backing: allowed}), bytes.Clone(want), 8)
}

// TestQEMULocks: QEMU keeps away from an image that stile writes to.
func TestQEMULocks(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	qemuImg(t, dir, "create", "-f", "raw", path, "1M")
	mustOpen(t, Options{Path: path, Format: Raw})
	out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "raw", path, filepath.Join(dir, "copy")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "lock") {
		t.Errorf("qemu-img reads an image that stile writes to: %v, %s", err, out)
	}
}

// writeBacked makes an image that names a backing file.
func writeBacked(t *testing.T, path, backing, format string) string {
	t.Helper()
	img := testImage(nil)
	at := 104
	if format != "" {
		binary.BigEndian.PutUint32(img[at:], extBackingFormat)
		binary.BigEndian.PutUint32(img[at+4:], uint32(len(format)))
		copy(img[at+8:], format)
		at += 8 + (len(format)+7)&^7
	}
	at += 8 // end of extensions
	binary.BigEndian.PutUint64(img[8:], uint64(at))
	binary.BigEndian.PutUint32(img[16:], uint32(len(backing)))
	copy(img[at:], backing)
	if err := os.WriteFile(path, img, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestQCOW2Backing(t *testing.T) {
	dir := t.TempDir()
	qemuImg(t, dir, "create", "-f", "raw", "base", "1M")
	write := func(name, backing, format string) string {
		return writeBacked(t, filepath.Join(dir, name), backing, format)
	}
	chain := "base"
	for i := range maxBackingDepth + 1 {
		name := string(rune('a' + i))
		format := "qcow2"
		if chain == "base" {
			format = "raw"
		}
		write(name, chain, format)
		chain = name
	}
	for _, tt := range []struct{ path, want string }{
		{write("undeclared", "base", ""), "qemu-img rebase"},
		{write("vmdk", "base", "vmdk"), `its format is "vmdk"`},
		{write("itself", "itself", "qcow2"), "each other's backing"},
		{write("scheme", "nbd://host/x", "raw"), "only files"},
		{write("json", `json:{"driver":"null-co"}`, "raw"), "only files"},
		{write("missing", "nothing", "raw"), "no such file"},
		{write("lying", "base", "qcow2"), "is not a qcow2 image"},
		{filepath.Join(dir, chain), "one behind the other"},
	} {
		img, err := Open(Options{Path: tt.path, ReadOnly: true})
		if err == nil {
			img.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q in it", filepath.Base(tt.path), err, tt.want)
		}
	}
	// A raw backing file is raw, whatever a guest has written to it.
	if err := os.WriteFile(filepath.Join(dir, "base"), testImage(nil), 0o644); err != nil {
		t.Fatal(err)
	}
	img := mustOpen(t, Options{Path: filepath.Join(dir, "a"), ReadOnly: true})
	if got := content(t, img); !isQCOW2(got) {
		t.Error("the raw backing file was read as qcow2")
	}
}

func TestQCOW2Header(t *testing.T) {
	put32 := func(at int, v uint32) func([]byte) { return func(p []byte) { binary.BigEndian.PutUint32(p[at:], v) } }
	put64 := func(at int, v uint64) func([]byte) { return func(p []byte) { binary.BigEndian.PutUint64(p[at:], v) } }
	for _, tt := range []struct {
		name   string
		change func([]byte)
		want   string
	}{
		{"version", put32(4, 4), "version 4"},
		{"tiny clusters", put32(20, 8), "2^8"},
		{"huge clusters", put32(20, 63), "2^63"},
		{"encrypted", put32(32, 2), "encrypted"},
		{"no size", put64(24, 0), "a disk of 0"},
		{"half a sector", put64(24, 100), "whole sectors"},
		{"a size beyond all", put64(24, 1<<63), "whole sectors"},
		{"L1 too small", put32(36, 0), "L1 entries"},
		{"L1 nowhere", put64(40, 0), "no cluster"},
		{"L1 askew", put64(40, 100), "no cluster"},
		{"L1 beyond the file", put64(40, 1<<40), "not in the file"},
		{"corrupt", put64(72, featureCorrupt), "qemu-img check"},
		{"data file", put64(72, featureDataFile), "another file"},
		{"extended L2", put64(72, featureExtendedL2), "extended L2"},
		{"future", put64(72, 1<<40), "unknown features"},
		{"compression without a type", put64(72, featureCompression), "compression type"},
		{"short header", put32(100, 50), "length"},
		{"long header", put32(100, 1<<30), "length"},
		{"backing name nowhere", func(p []byte) { put64(8, 1<<40)(p); put32(16, 3)(p) }, "first cluster"},
		{"backing name without end", func(p []byte) { put64(8, 200)(p); put32(16, 1<<31)(p) }, "first cluster"},
		{"endless extension", func(p []byte) {
			put64(8, 200)(p)
			put32(16, 3)(p)
			copy(p[200:], "abc")
			put32(104, 5)(p)
			put32(108, 1<<31)(p)
		}, "extension"},
	} {
		data := testImage(random(1, 1<<20))
		tt.change(data)
		img, err := Open(Options{Path: makeFile(t, "q", data), Format: QCOW2, ReadOnly: true})
		if err == nil {
			img.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q in it", tt.name, err, tt.want)
		}
	}
}

// What is wrong inside an image is an I/O error where it is read.
func TestQCOW2Damage(t *testing.T) {
	const l1, l2 = testCluster, 2 * testCluster
	for name, damage := range map[string]func([]byte) []byte{
		"L2 table askew":    func(p []byte) []byte { binary.BigEndian.PutUint64(p[l1:], 512); return p },
		"L2 table nowhere":  func(p []byte) []byte { binary.BigEndian.PutUint64(p[l1:], 1<<40); return p },
		"data askew":        func(p []byte) []byte { binary.BigEndian.PutUint64(p[l2:], 512); return p },
		"packed nonsense":   func(p []byte) []byte { binary.BigEndian.PutUint64(p[l2:], l2Compressed|3*testCluster); return p },
		"packed nowhere":    func(p []byte) []byte { binary.BigEndian.PutUint64(p[l2:], l2Compressed|1<<50); return p },
		"packed beyond all": func(p []byte) []byte { binary.BigEndian.PutUint64(p[l2:], 1<<63-1); return p },
	} {
		path := makeFile(t, "q", damage(testImage(random(1, 1<<20))))
		img := mustOpen(t, Options{Path: path, ReadOnly: true})
		if err := img.ReadAt([][]byte{make([]byte, 512)}, 0); !errors.Is(err, unix.EIO) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzQCOW2 reads images of 512-byte clusters: a header, an L1 table, an L2 table and what they point to, all any bytes.
// Small parts make the fuzzer quick.
func FuzzQCOW2(f *testing.F) {
	const cluster, data = 512, 3 * 512
	header := testImage(nil)[:112]
	binary.BigEndian.PutUint32(header[20:], 9)
	binary.BigEndian.PutUint64(header[24:], 64*cluster)
	binary.BigEndian.PutUint64(header[40:], cluster)
	zstd := bytes.Clone(header)
	binary.BigEndian.PutUint64(zstd[72:], featureCompression)
	binary.BigEndian.PutUint32(zstd[100:], 112)
	zstd[104] = 1
	entries := func(list ...uint64) (p []byte) {
		for _, e := range list {
			p = binary.BigEndian.AppendUint64(p, e)
		}
		return p
	}
	l1 := entries(2 * cluster)
	f.Add(header, l1, entries(data, data, 1, l2Compressed|data), []byte("plain"), int64(0))
	f.Add(header, l1, entries(l2Compressed|data|1<<61), []byte{0x4b, 0x4c, 0x24, 0x0e, 0, 0}, int64(512))
	f.Add(zstd, l1, entries(l2Compressed|data), []byte{0x28, 0xb5, 0x2f, 0xfd, 4, 0, 1, 0, 0}, int64(1))
	f.Fuzz(func(t *testing.T, header, l1, l2, payload []byte, off int64) {
		file := make([]byte, 3*cluster)
		copy(file, header)
		copy(file[cluster:], l1)
		copy(file[2*cluster:], l2)
		file = append(file, payload...)
		h, err := parseHeader(file)
		if err != nil || h.backing != "" { // no file that the fuzzer names is opened
			return
		}
		img, err := Open(Options{Path: makeFile(t, "q", file), Format: QCOW2, ReadOnly: true})
		if err != nil {
			return
		}
		defer img.Close()
		buf := [][]byte{make([]byte, 700), make([]byte, 8<<10)}
		for _, at := range []int64{0, off, img.Size() - 512, img.Size() / 2} {
			_ = img.ReadAt(buf[:1], at)
			_ = img.ReadAt(buf, at)
		}
	})
}
