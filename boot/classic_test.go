package boot

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"
)

func gzipped(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestClassic(t *testing.T) {
	zeros := strings.Repeat("\x00", 2048)
	ext2 := zeros[:1080] + "\x53\xef" + zeros
	for name, tt := range map[string]struct {
		data string
		want bool
	}{
		"cpio":                    {"070701" + zeros, false},
		"cpio with sums":          {"070702" + zeros, false},
		"behind zeros":            {"\x00\x00\x00\x00070701" + zeros, false},
		"gzip":                    {gzipped(t, "070701"+zeros), false},
		"gzip behind zeros":       {"\x00\x00\x00\x00" + gzipped(t, "070701"+zeros), false},
		"damaged gzip":            {"\x1f\x8b\x08", false},
		"lzo, which is not known": {"\x89LZO\x00\r\n\x1a\n" + zeros, false},
		"empty":                   {"", false},
		"ext2":                    {ext2, true},
		"squashfs":                {"hsqs" + zeros, true},
		"ext2 in gzip":            {gzipped(t, ext2), true},
		"old cpio":                {"070707" + zeros, true},
	} {
		i := &Initrd{Data: strings.NewReader(tt.data), Size: int64(len(tt.data))}
		if got := i.Classic(); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func FuzzClassic(f *testing.F) {
	f.Add([]byte("070701"))
	f.Add([]byte(gzipped(f, "070701")))
	f.Add([]byte("hsqs"))
	f.Add([]byte("\x28\xb5\x2f\xfd\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		(&Initrd{Data: bytes.NewReader(data), Size: int64(len(data))}).Classic()
	})
}
