package kmod

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stile-vmm/stile/images/kmod/kmodtest"
)

func readText(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func openIndex(t *testing.T, dir, name string) *Index {
	t.Helper()
	x, err := OpenIndex(bytes.NewReader([]byte(readText(t, dir, name))))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestWriteIndexes reads all that WriteIndexes writes.
func TestWriteIndexes(t *testing.T) {
	dir := t.TempDir()
	kmodtest.Tree(t, dir)
	kmodtest.Write(t, filepath.Join(dir, "build/samples/x.ko"), kmodtest.Module(nil)) // not installed
	kmodtest.Write(t, filepath.Join(dir, "kernel/damaged.ko"), []byte("no ELF file"))
	if err := WriteIndexes(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	wantDep := `kernel/lib/libcrc32c.ko:
kernel/crypto/crc32c-y.ko:
kernel/crypto/crc32c-x.ko:
kernel/drivers/net/tun.ko:
kernel/fs/xfs/xfs.ko: kernel/lib/libcrc32c.ko
kernel/drivers/d.ko:
kernel/drivers/c.ko.zst: kernel/drivers/d.ko
kernel/drivers/b.ko.gz: kernel/drivers/d.ko
kernel/drivers/a.ko: kernel/drivers/c.ko.zst kernel/drivers/b.ko.gz kernel/drivers/d.ko
kernel/damaged.ko:
kernel/drivers/not-listed.ko:
updates/dkms/replaced.ko: kernel/drivers/d.ko
`
	if diff := cmp.Diff(wantDep, readText(t, dir, "modules.dep")); diff != "" {
		t.Error(diff)
	}
	devname := readText(t, dir, DevnameList)
	if !strings.HasSuffix(devname, "loading.\ntun net/tun c10:200\nd d-node b7:3\n") {
		t.Errorf("%s:\n%s", DevnameList, devname)
	}
	for name, line := range map[string]string{
		SoftdepList: "softdep xfs pre: crc32c\n", "modules.weakdep": "weakdep c b\n",
		"modules.symbols": "alias symbol:b2 b\n", "modules.alias": "alias acpi*:PNP-0?:* a\n",
	} {
		if text := readText(t, dir, name); !strings.Contains(text, "\n"+line) {
			t.Errorf("%s lacks %q:\n%s", name, line, text)
		}
	}
	for _, tt := range []struct {
		index, name string
		want        []string
	}{
		{AliasIndex, "fs_xfs", []string{"xfs"}},
		{AliasIndex, "crypto_crc32c", []string{"crc32c_y", "crc32c_x"}}, // in the modules' order
		{AliasIndex, "char_major_10_200", []string{"tun"}},
		{AliasIndex, "pci:v00008086d00001234sv1sd2bc02sc20i00", []string{"a"}},
		{AliasIndex, "pci:v00008086d00001234sv1sd2bc02sc40i00", nil},
		{AliasIndex, "acpix:PNP_07:y", []string{"a"}},
		{AliasIndex, "new", []string{"replaced"}},
		{AliasIndex, "old", nil},
		{AliasIndex, "", nil},
		{SymbolIndex, "symbol:crc32c", []string{"libcrc32c"}},
		{BuiltinIndex, "8250_base", []string{""}},
		{BuiltinAliasIndex, "fs_fuse", []string{"fuse"}},
		{DepIndex, "b", []string{"kernel/drivers/b.ko.gz: kernel/drivers/d.ko"}},
		{DepIndex, "x", nil},
	} {
		found, err := openIndex(t, dir, tt.index).Find(tt.name)
		var got []string
		for _, v := range found {
			got = append(got, v.Text)
		}
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s, %s: %q, %v; want %q", tt.index, tt.name, got, err, tt.want)
		}
	}
}

// TestWriteIndexesOfNothing: a kernel that has all built in.
func TestWriteIndexesOfNothing(t *testing.T) {
	dir := t.TempDir()
	if err := WriteIndexes(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if found, err := openIndex(t, dir, AliasIndex).Find("fs-xfs"); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
}

func TestChoose(t *testing.T) {
	got := Choose([]string{"extra/a.ko", "kernel/a.ko", "kernel/b.ko", "updates/a.ko.xz", "weak-updates/b.ko", "weak-updates/c.ko"})
	want := map[string]string{"a": "updates/a.ko.xz", "b": "kernel/b.ko", "c": "weak-updates/c.ko"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestExports has modules of kernels with and without checksums of symbols.
func TestExports(t *testing.T) {
	plain := kmodtest.Module(nil, "one", "two", "!three")
	for name, module := range map[string][]byte{
		"checksums": plain,
		"none":      bytes.ReplaceAll(plain, []byte("\x00__crc_"), []byte("\x00__ksym")), // is no name of either kind
	} {
		info, err := ParseInfo(bytes.NewReader(module))
		if err != nil {
			t.Fatal(err)
		}
		if want := map[string][]string{"checksums": {"one", "two"}}[name]; !slices.Equal(info.Symbols, want) {
			t.Errorf("%s: %q, want %q", name, info.Symbols, want)
		}
	}
	table := kmodtest.Module(nil, "!__ksymtab_one", "!three")
	if info, err := ParseInfo(bytes.NewReader(table)); err != nil || !slices.Equal(info.Symbols, []string{"one"}) {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestParseOrder(t *testing.T) {
	got := parseOrder("kernel/net/a.ko\nfs/b.o\n\nnet/a.ko\ndrivers/c.ko.xz\n")
	if diff := cmp.Diff(map[string]int{"net/a": 0, "fs/b": 1, "drivers/c": 2}, got); diff != "" {
		t.Error(diff)
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true}, {"a", "", false}, {"", "a", false}, {"abc", "abc", true}, {"a*c", "abbc", true}, {"a*c", "abbd", false},
		{"*", "", true}, {"**a", "bca", true}, {"a?c", "abc", true}, {"a?", "a", false}, {"[a-c]x", "bx", true}, {"[!a-c]x", "bx", false},
		{"[!a-c]x", "dx", true}, {"[]]", "]", true}, {"[a", "[a", true}, {`\*`, "*", true}, {`\*`, "a", false}, {"a/*", "a/b/c", true},
		{"*b*", "aabaa", true}, {"a*b*c", "aXbYbZ", false}, {"[a-]", "-", true}, {"v*d*sv*", "v1d2sv3", true},
	} {
		if got := Match(tt.pattern, tt.name); got != tt.want {
			t.Errorf("%q, %q: %v", tt.pattern, tt.name, got)
		}
	}
	long := strings.Repeat("*a", 40)
	if Match(long+"b", strings.Repeat("a", 3000)) {
		t.Error("a name without b")
	}
}

func TestNormalize(t *testing.T) {
	for alias, want := range map[string]string{"snd-pcm": "snd_pcm", "a[0-9]-b": "a[0-9]_b", "a]": "", "a[": ""} {
		if got, err := Normalize(alias); got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v", alias, got, err)
		}
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("a*[b-]?", "a-b")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if got := Match(pattern, name); got && pattern == "" && name != "" {
			t.Error("an empty pattern matches a name")
		}
	})
}

func FuzzParseInfo(f *testing.F) {
	f.Add(kmodtest.Module([]string{"depends=a,b", "alias=x", "softdep=pre: y"}, "one", "two"))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, module []byte) {
		if info, err := ParseInfo(bytes.NewReader(module)); err == nil && info == nil {
			t.Error("neither a module nor an error")
		}
	})
}

func FuzzIndex(f *testing.F) {
	w := &indexWriter{}
	for i, key := range []string{"fs_xfs", "fs_ext4", "pci:v*d*", "", "a[b-d]?"} {
		w.add(key, key, i)
	}
	file, err := w.bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file, "pci:v1d2")
	f.Fuzz(func(t *testing.T, file []byte, name string) {
		x, err := OpenIndex(bytes.NewReader(file))
		if err != nil {
			return
		}
		_, _ = x.Find(name)
		_, _ = x.Get(name)
		_ = x.Walk(func(string, Value) {})
	})
}

// FuzzWriteIndex writes keys and finds them.
func FuzzWriteIndex(f *testing.F) {
	f.Add("a b ab abc abd")
	f.Fuzz(func(t *testing.T, text string) {
		w := &indexWriter{}
		keys := strings.Fields(text)
		for i, key := range keys {
			w.add(key, key, i)
		}
		file, err := w.bytes()
		if err != nil {
			t.Fatal(err)
		}
		x, err := OpenIndex(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			if strings.IndexFunc(key, func(r rune) bool { return r > maxKey || r == 0 }) >= 0 || !isASCII(key) {
				continue
			}
			if found, err := x.Get(key); err != nil || len(found) != 1 || found[0].Text != key {
				t.Errorf("%q: %v, %v", key, found, err)
			}
		}
	})
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] > maxKey {
			return false
		}
	}
	return true
}

// TestDamagedIndex has a search end in time where nodes have their children in common, or point at themselves.
func TestDamagedIndex(t *testing.T) {
	file := binary.BigEndian.AppendUint32(nil, indexMagic)
	file = binary.BigEndian.AppendUint32(file, indexVersion)
	file = append(file, 0, 0, 0, 0)
	child := uint32(len(file)) | flagValues
	file = append(file, 0, 0, 0, 1, 0, 0, 0, 0, 'v', 0)
	for range 40 { // each node has the one before 127 times
		ref := uint32(len(file)) | flagChildren
		file = append(file, 1, 127)
		for range 127 {
			file = binary.BigEndian.AppendUint32(file, child)
		}
		child = ref
	}
	binary.BigEndian.PutUint32(file[8:], child)
	circle := slices.Clone(file[:headerSize])
	circle = append(circle, 'a', 'a', flagChildren>>24, 0, 0, headerSize)
	binary.BigEndian.PutUint32(circle[8:], headerSize|flagChildren)
	for name, file := range map[string][]byte{"shared": file, "circle": circle, "cut": file[:len(file)-3], "header": file[:headerSize]} {
		x, err := OpenIndex(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, findErr := x.Find(strings.Repeat("a", 100))
		walkErr := x.Walk(func(string, Value) {})
		t.Log(name, time.Since(start), findErr) // seconds at the most
		if !errors.Is(walkErr, errDamaged) {
			t.Errorf("%s: %v", name, walkErr)
		}
	}
}
