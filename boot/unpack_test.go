package boot

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

var update = flag.Bool("update", false, "pack the payload anew with the system's tools")

// samplePayload is an ELF file with code that calls a few places over and over: the x86
// filter of xz changes each call, so that what ignores the filter does not get it back.
func samplePayload() []byte {
	var code []byte
	for i := range uint32(300) {
		target := i % 7 * 0x100
		code = append(code, 0x90, 0xe8)
		code = binary.LittleEndian.AppendUint32(code, target-uint32(len(code))-4)
	}
	return testELF{entry: 0x1000000, segments: []testSegment{{phys: 0x1000000, data: code}}}.bytes()
}

// packers are the commands of the kernel's build (scripts/Makefile.lib, xz_wrap.sh),
// but with smaller windows, which make the tests faster.
func packers() map[string][]string {
	return map[string][]string{
		"gzip":  {"gzip", "-n", "-9"},
		"xz":    {"xz", "--check=crc32", "--x86", "--lzma2=dict=1MiB"},
		"lzma":  {"xz", "--format=lzma", "--lzma1=dict=1MiB"},
		"lz4":   {"lz4", "-l", "-9", "-", "-"},
		"zstd":  {"zstd", "-22", "--ultra"},
		"bzip2": {"bzip2", "-9"},
	}
}

// packedPayload returns samplePayload as a bzImage has it, packed by a tool.
func packedPayload(t testing.TB, format string) []byte {
	t.Helper()
	file := filepath.Join("testdata", "payload."+format)
	if *update {
		cmd := exec.Command(packers()[format][0], packers()[format][1:]...)
		cmd.Stdin = bytes.NewReader(samplePayload())
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", cmd.Args, err)
		}
		if err := os.WriteFile(file, out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if format == "gzip" {
		return b // has its size at the end
	}
	return appendSize(b, len(samplePayload()))
}

func TestUnpack(t *testing.T) {
	want := samplePayload()
	for format := range packers() {
		t.Run(format, func(t *testing.T) {
			k := newKernel(t, smallBzImage(packedPayload(t, format)).bytes())
			if k.Compression() != format || k.UnpackedSize() != int64(len(want)) || k.Format() != BzImage {
				t.Errorf("%s payload of %d bytes, want %s of %d", k.Compression(), k.UnpackedSize(), format, len(want))
			}
			var out bytes.Buffer
			if err := k.Unpack(&out); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Fatalf("%d bytes that differ from the payload", out.Len())
			}
			if v := newKernel(t, out.Bytes()); v.elf.entry != 0x1000000 {
				t.Errorf("entry of the unpacked kernel: %#x", v.elf.entry)
			}
		})
	}
}

// TestUnpackWide has the window of a distribution's kernel.
func TestUnpackWide(t *testing.T) {
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed, zstd.WithWindowSize(maxWindow), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	want := samplePayload()
	if _, err := z.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(z.Flush(), z.Close()); err != nil {
		t.Fatal(err)
	}
	k := newKernel(t, smallBzImage(appendSize(packed.Bytes(), len(want))).bytes())
	var out bytes.Buffer
	if err := k.Unpack(&out); err != nil || !bytes.Equal(out.Bytes(), want) {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
	c, err := k.codec()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.unpack(c, &bytes.Buffer{}, maxWindow/2); err == nil {
		t.Error("a window larger than allowed: no error")
	}
}

func TestUnpackStored(t *testing.T) {
	want := smallELF().bytes()
	var out bytes.Buffer
	if err := newKernel(t, smallBzImage(appendSize(want, len(want))).bytes()).Unpack(&out); err != nil || !bytes.Equal(out.Bytes(), want) {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
}

func TestUnpackDamaged(t *testing.T) {
	size := len(samplePayload())
	for format := range packers() {
		good := packedPayload(t, format)
		middle := patched(good, len(good)/2, 0xff^good[len(good)/2], 0xff^good[len(good)/2+1], 0x55)
		cases := map[string][]byte{
			"half of it":      append(bytes.Clone(good[:len(good)/2]), good[len(good)-4:]...),
			"its magic alone": append(bytes.Clone(good[:payloadMagic]), good[len(good)-4:]...),
			"size too small":  appendSize(good[:len(good)-4], size-1),
			"size too large":  appendSize(good[:len(good)-4], size+1),
			"size huge":       appendSize(good[:len(good)-4], 1<<31),
		}
		if format != "lz4" && format != "lzma" { // these have no checksum
			cases["garbage in the middle"] = middle
		}
		for name, payload := range cases {
			var out bytes.Buffer
			err := newKernel(t, smallBzImage(payload).bytes()).Unpack(&out)
			if err == nil || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("%s, %s: %d bytes, %v", format, name, out.Len(), err)
			}
			if out.Len() > size+1 {
				t.Errorf("%s, %s: %d bytes were written, of %d", format, name, out.Len(), size)
			}
		}
	}
}

func TestUnpackUnsupported(t *testing.T) {
	for _, payload := range []string{"\x89LZO\x00\r\n\x1a\nxxxx", "unknownxxxx", "xxxxx"} {
		k := newKernel(t, smallBzImage([]byte(payload)).bytes())
		if err := k.Unpack(&bytes.Buffer{}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("payload %q: %v", payload, err)
		}
	}
	if err := newKernel(t, smallELF().bytes()).Unpack(&bytes.Buffer{}); err == nil || errors.Is(err, ErrUnsupported) {
		t.Errorf("ELF: %v", err)
	}
}

// TestUnpackBomb packs much more than the size at its end says.
func TestUnpackBomb(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	for range 4 {
		if _, err := z.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	payload := packed.Bytes()
	binary.LittleEndian.PutUint32(payload[len(payload)-4:], 4096)
	var out bytes.Buffer
	if err := newKernel(t, smallBzImage(payload).bytes()).Unpack(&out); err == nil || out.Len() > 4096 {
		t.Errorf("%d bytes were written, %v", out.Len(), err)
	}
}

// fullWriter has no room.
type fullWriter struct{}

var errFull = errors.New("no space left")

func (fullWriter) Write([]byte) (int, error) { return 0, errFull }

func TestUnpackWriteError(t *testing.T) {
	err := newKernel(t, smallBzImage(packedPayload(t, "gzip")).bytes()).Unpack(fullWriter{})
	if !errors.Is(err, errFull) || strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
}

func TestLZMADictionary(t *testing.T) {
	payload := packedPayload(t, "lzma")
	payload = patched(payload, 1, 0, 0, 0, 0xf0)
	if err := newKernel(t, smallBzImage(payload).bytes()).Unpack(&bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "dictionary") {
		t.Errorf("got %v", err)
	}
}
