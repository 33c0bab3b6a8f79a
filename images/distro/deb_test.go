package distro

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// entry is a member of an archive for tests; a name that ends in / is a folder.
type entry struct {
	name string
	text string
	link string // a symbolic link's target
	kind byte   // overrides what follows from the others
	size int64  // overrides the text's, for headers that lie
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.text)), Typeflag: tar.TypeReg, Format: tar.FormatGNU}
		switch {
		case e.kind != 0:
			h.Typeflag, h.Linkname = e.kind, e.link
		case e.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		case e.name[len(e.name)-1] == '/':
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if e.size != 0 {
			h.Size = e.size
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			t.Fatal(err)
		}
	}
	w.Close() // fails where a size lies
	return b.Bytes()
}

func compress(t testing.TB, ext string, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch ext {
	case "":
		return content
	case ".gz":
		w = gzip.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	case ".xz":
		w, err = xz.NewWriter(&b)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// makeAr makes an archive of pairs of names and contents.
func makeAr(members ...string) []byte {
	b := bytes.NewBufferString(arMagic)
	for i := 0; i < len(members); i += 2 {
		name, content := members[i], members[i+1]
		fmt.Fprintf(b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n%s", name, 0, 0, 0, 0o100644, len(content), content)
		if len(content)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func makeDeb(t testing.TB, ext string, entries ...entry) []byte {
	t.Helper()
	data := compress(t, ext, makeTar(t, entries...))
	return makeAr("debian-binary", "2.0\n", "control.tar.gz", "odd", "data.tar"+ext, string(data))
}

// kernelEntries are those of a kernel's package.
func kernelEntries(release string) []entry {
	return []entry{
		{name: "./"},
		{name: "./boot/"},
		{name: "./boot/System.map-" + release, text: "not wanted"},
		{name: "./boot/config-" + release, text: "CONFIG_PCI=y\n"},
		{name: "./boot/vmlinuz-" + release, text: "kernel " + release},
		{name: "./lib/modules/" + release + "/kernel/fs/9p/9p.ko", text: "module"},
		{name: "./usr/share/doc/x/copyright", text: "not wanted"},
	}
}
