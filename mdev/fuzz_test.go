package mdev

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzDefinition: whatever is in a definition, its names stay in their folders.
func FuzzDefinition(f *testing.F) {
	for _, seed := range []string{
		`{"mdev_type": "type1", "start": "auto", "attrs": [{"a": "1"}, {"vendor/x": "2"}]}`,
		`{"mdev_type": "a", "attrs": [{"../x": "1"}]}`, `{"mdev_type": "a/b"}`, `{"attrs": null}`, "[]", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := parseDefinition(text)
		if err != nil {
			return
		}
		if d.Type == "" || strings.Contains(d.Type, "/") {
			t.Errorf("type %q", d.Type)
		}
		for _, a := range d.Attributes {
			if !filepath.IsLocal(a.Name) || filepath.Clean(a.Name) != a.Name {
				t.Errorf("attribute %q", a.Name)
			}
		}
	})
}

// FuzzVermagic reads modules that are none.
func FuzzVermagic(f *testing.F) {
	f.Add(moduleFile("vermagic=6.12.1 SMP mod_unload \x00license=GPL\x00"))
	f.Add(moduleFile(""))
	f.Add([]byte("\x7fELF"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 1<<16 {
			return
		}
		_, _ = vermagicOf(bytes.NewReader(text))
	})
}

// moduleFile returns an ELF file whose section .modinfo has a text.
func moduleFile(modinfo string) []byte {
	const headerSize, sectionSize = 64, 64
	names := "\x00.modinfo\x00.shstrtab\x00"
	var b bytes.Buffer
	h := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: headerSize,
		Ehsize: headerSize, Shentsize: sectionSize, Shnum: 3, Shstrndx: 2,
	}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	data := uint64(headerSize + 3*sectionSize)
	_ = binary.Write(&b, binary.LittleEndian, h)
	_ = binary.Write(&b, binary.LittleEndian, []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: data, Size: uint64(len(modinfo))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: data + uint64(len(modinfo)), Size: uint64(len(names))},
	})
	b.WriteString(modinfo + names)
	return b.Bytes()
}

func TestVermagic(t *testing.T) {
	for text, want := range map[string]string{
		"license=GPL\x00vermagic=6.12.1 SMP mod_unload \x00": "6.12.1 SMP mod_unload",
		"license=GPL\x00": "",
	} {
		got, err := vermagicOf(bytes.NewReader(moduleFile(text)))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	path := filepath.Join(t.TempDir(), "x.ko")
	if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Load(path, "6.12"); err == nil || !strings.Contains(err.Error(), "not a module") {
		t.Errorf("load a text: %v", err)
	}
}
