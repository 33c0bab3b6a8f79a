package distro

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func discard(_ *tar.Header, r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

func TestWalkDebRefuses(t *testing.T) {
	good := makeDeb(t, ".gz", kernelEntries("6.1.0-1-amd64")...)
	if err := walkDeb(bytes.NewReader(good), discard); err != nil {
		t.Fatal(err)
	}
	hugeSize := bytes.Replace(good, []byte("3         `\n"), []byte("9999999999`\n"), 1)
	if bytes.Equal(hugeSize, good) {
		t.Fatal("no member of 3 bytes to lie about")
	}
	for name, deb := range map[string]struct {
		bytes []byte
		want  string
	}{
		"empty":            {nil, "not an ar archive"},
		"no ar":            {[]byte("PK\x03\x04 and so on"), "not an ar archive"},
		"not a package":    {makeAr("hello", "x"), "not a Debian package"},
		"format":           {makeAr("debian-binary", "3.0\n"), "unknown format"},
		"no files":         {makeAr("debian-binary", "2.0\n", "control.tar", "x"), "without data.tar"},
		"compression":      {makeAr("debian-binary", "2.0\n", "data.tar.rar", "x"), `".rar" is unknown`},
		"xz garbage":       {makeAr("debian-binary", "2.0\n", "data.tar.xz", "garbage"), "xz"},
		"huge member":      {hugeSize, "truncated"},
		"negative size":    {bytes.Replace(good, []byte("3         `\n"), []byte("-3        `\n"), 1), "size"},
		"no header's end":  {bytes.Replace(good, []byte("`\n"), []byte("``"), 1), ""},
		"slash after name": {makeAr("debian-binary/", "9\n"), "unknown format"},
	} {
		t.Run(name, func(t *testing.T) {
			err := walkDeb(bytes.NewReader(deb.bytes), discard)
			if err == nil || !strings.Contains(err.Error(), deb.want) {
				t.Errorf("error %v, want one with %q", err, deb.want)
			}
		})
	}
}

// TestTruncated cuts packages short in many places: none may pass for a whole one.
func TestTruncated(t *testing.T) {
	for _, ext := range []string{"", ".gz", ".xz", ".zst"} {
		deb := makeDeb(t, ext, kernelEntries("6.1.0-1-amd64")...)
		for cut := 1; cut < len(deb); cut += max(1, len(deb)/200) {
			err := walkDeb(bytes.NewReader(deb[:len(deb)-cut]), discard)
			// Plain tar archives end in blocks of zeros, which nobody needs.
			if err == nil && (ext != "" || cut > 1024) {
				t.Errorf("data.tar%s: %d of %d bytes pass", ext, len(deb)-cut, len(deb))
			}
		}
	}
}

func FuzzWalkDeb(f *testing.F) {
	for _, ext := range []string{"", ".gz", ".xz", ".zst"} {
		f.Add(makeDeb(f, ext, kernelEntries("6.1.0-1-amd64")...))
	}
	f.Add(makeAr("debian-binary", "2.0\n"))
	f.Fuzz(func(t *testing.T, deb []byte) {
		var left int64 = 1 << 20
		enough := errors.New("enough")
		walkDeb(bytes.NewReader(deb), func(h *tar.Header, r io.Reader) error {
			n, err := io.CopyN(io.Discard, r, left)
			if left -= n; left == 0 {
				return enough
			}
			if err == io.EOF {
				err = nil
			}
			return err
		})
	})
}
