package disk

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sector is the first sector of an image with something at an offset.
func sector(at int, text string) []byte {
	p := make([]byte, SectorSize)
	copy(p[at:], text)
	return p
}

// headers are first sectors of all formats that QEMU probes for, by qemu-img's names.
func headers() map[string][]byte {
	return map[string][]byte{
		"qcow": sector(0, "QFI\xfb\x00\x00\x00\x01"), "qed": sector(0, "QED\x00"), "vmdk": sector(0, "KDMV"),
		"vmdk old": sector(0, "COWD"), "vmdk text": sector(0, "# Disk DescriptorFile\nversion=1\nCID=1\n"),
		"vmdk text CRLF": sector(0, "# Disk DescriptorFile\r\n\r\nversion=3\r\n"),
		"vpc":            sector(0, "conectix"), "vhdx": sector(0, "vhdxfile"), "vdi": sector(0x40, "\x7f\x10\xda\xbe"),
		"parallels": sector(0, "WithoutFreeSpace"), "parallels ext": sector(0, "WithouFreSpacExt"),
		"bochs": sector(0, "Bochs Virtual HD Image"), "cloop": sector(0, "#!/bin/sh\n#V2.0 Format\n"), "luks": sector(0, "LUKS\xba\xbe\x00\x02"),
	}
}

// TestOtherFormats: an image of a format that stile does not read is not given to a guest as it is, unless the user insists.
func TestOtherFormats(t *testing.T) {
	for name, head := range headers() {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, append(head, make([]byte, 8192)...), 0o600); err != nil {
			t.Fatal(err)
		}
		format, _, _ := strings.Cut(name, " ")
		for _, o := range []Options{{}, {ReadOnly: true}, {COW: true}} {
			o.Path = path
			img, err := Open(o)
			want := "qemu-img convert -f " + format + " -O raw"
			if format == luks {
				want = "LUKS"
			}
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "format=raw") {
				t.Errorf("%s, %+v: %v", name, o, err)
			}
			if err == nil {
				img.Close()
			}
			o.Format = Raw
			if img, err = Open(o); err != nil {
				t.Errorf("%s with format=raw: %v", name, err)
				continue
			}
			img.Close()
		}
	}
}

func TestFooters(t *testing.T) {
	vpc := sector(0, "conectix")
	binary.BigEndian.PutUint32(vpc[64:], vpcChecksum(vpc))
	for name, test := range map[string]struct {
		tail []byte
		want string
	}{
		"VHD": {vpc, "VHD"}, "DMG": {sector(0, "koly"), "DMG"}, "text": {sector(0, "conectix"), ""}, "short": {[]byte("koly"), ""},
	} {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, append(make([]byte, 4096), test.tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		img, err := Open(Options{Path: path})
		if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			img.Close()
		}
	}
}

// TestHeadersAreGuarded: no guest makes an image that was guessed to be raw one of another format.
func TestHeadersAreGuarded(t *testing.T) {
	all := headers()
	all["qcow2"] = sector(0, qcow2Magic+"\x00\x00\x00\x03")
	for name, head := range all {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
			t.Fatal(err)
		}
		img, err := Open(Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		format, _, _ := strings.Cut(name, " ")
		if err := img.WriteAt([][]byte{head[:100], head[100:], make([]byte, SectorSize)}, 0); err == nil || !strings.Contains(err.Error(), "format "+format) {
			t.Errorf("%s: %v", name, err)
		}
		if err := img.WriteAt([][]byte{head}, SectorSize); err != nil {
			t.Errorf("%s in the second sector: %v", name, err)
		}
		if err := img.WriteAt([][]byte{sector(0, "#!/bin/sh\nversion=1\n")}, 0); name == "vmdk" && err == nil {
			t.Error("a description with another comment was let through")
		}
		img.Close()
	}
}

func FuzzProbe(f *testing.F) {
	for _, head := range headers() {
		f.Add(head)
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		found, ok := probe(head)
		if ok != (found.name != "") {
			t.Errorf("%+v, %v", found, ok)
		}
		if isQCOW2(head) && ok && found.name != "qcow" {
			t.Errorf("two formats: %s", found.name)
		}
		probeFooter(head)
		isDescriptor(bytes.Clone(head))
	})
}
