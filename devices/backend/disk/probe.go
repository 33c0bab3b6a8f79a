package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// foreign is a format that stile does not read. Name is qemu-img's.
type foreign struct{ name, says string }

// Signatures at an image's beginning, as QEMU looks for them (the functions *_probe in its folder block).
const (
	vdiSignature   = 0xbeda107f
	vdiSignatureAt = 0x40
	footerSize     = 512
	footerVPC      = "conectix"
	footerDMG      = "koly"
)

func signatures() []struct {
	magic string
	foreign
} {
	return []struct {
		magic string
		foreign
	}{
		{"QFI\xfb\x00\x00\x00\x01", foreign{"qcow", "a QCOW image of version 1"}},
		{"QED\x00", foreign{"qed", "a QED image"}},
		{"KDMV", foreign{"vmdk", "a VMDK image"}},
		{"COWD", foreign{"vmdk", "a VMDK image"}},
		{"conectix", foreign{"vpc", "a VHD image"}},
		{"vhdxfile", foreign{"vhdx", "a VHDX image"}},
		{"WithoutFreeSpace", foreign{"parallels", "a Parallels image"}},
		{"WithouFreSpacExt", foreign{"parallels", "a Parallels image"}},
		{"Bochs Virtual HD Image", foreign{"bochs", "a Bochs image"}},
		{"#!/bin/sh\n#V2.0 Format\n", foreign{"cloop", "a cloop image"}},
		{"LUKS\xba\xbe", foreign{luks, "a LUKS container"}},
	}
}

// luks is different: a guest opens it itself.
const luks = "luks"

// probe tells another format than raw and qcow2 by the first bytes of a file.
func probe(head []byte) (foreign, bool) {
	for _, s := range signatures() {
		if bytes.HasPrefix(head, []byte(s.magic)) {
			return s.foreign, true
		}
	}
	switch {
	case len(head) >= vdiSignatureAt+4 && binary.LittleEndian.Uint32(head[vdiSignatureAt:]) == vdiSignature:
		return foreign{"vdi", "a VDI image"}, true
	case isDescriptor(head):
		return foreign{"vmdk", "the description of a VMDK image"}, true
	}
	return foreign{}, false
}

// isDescriptor tells the text that names a VMDK image's files: comments, and then its version.
func isDescriptor(head []byte) bool {
	if !bytes.HasPrefix(head, []byte("#")) {
		return false
	}
	for line := range bytes.Lines(head) {
		line = bytes.TrimRight(line, " \r\n")
		if len(line) > 0 && line[0] != '#' {
			version, ok := bytes.CutPrefix(line, []byte("version="))
			return ok && len(version) == 1 && version[0] >= '1' && version[0] <= '3'
		}
	}
	return false
}

// probeFooter tells a format by the last bytes of a file.
func probeFooter(tail []byte) (foreign, bool) {
	switch {
	case len(tail) != footerSize:
	case bytes.HasPrefix(tail, []byte(footerDMG)):
		return foreign{"dmg", "a DMG image"}, true
	case bytes.HasPrefix(tail, []byte(footerVPC)) && vpcChecksum(tail) == binary.BigEndian.Uint32(tail[64:]):
		return foreign{"vpc", "a VHD image of fixed size"}, true
	}
	return foreign{}, false
}

// vpcChecksum is the one's complement of the sum of a footer's bytes but those of the checksum (VHD specification 1.0).
func vpcChecksum(footer []byte) uint32 {
	var sum uint32
	for i, b := range footer {
		if i < 64 || i >= 68 {
			sum += uint32(b)
		}
	}
	return ^sum
}

// detect tells what an image is by its contents: qcow2, or raw where nothing says that it is another.
func detect(f *file) (Format, error) {
	head, err := f.readUpTo(0)
	if err != nil {
		return "", err
	}
	tail, err := f.readUpTo(max(0, f.size-footerSize))
	if err != nil {
		return "", err
	}
	if found, ok := probe(head); ok && !(found.name == luks && f.isDevice) {
		return "", found.refuse(f.path)
	}
	if isQCOW2(head) {
		return QCOW2, nil
	}
	if found, ok := probeFooter(tail); ok {
		return "", found.refuse(f.path)
	}
	return Raw, nil
}

// readUpTo reads a sector, or what there is of it.
func (f *file) readUpTo(off int64) ([]byte, error) {
	sector := make([]byte, SectorSize)
	n, err := f.readSome(sector, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return sector[:n], err
}

// refuse says what can be done about such an image.
func (f foreign) refuse(path string) error {
	if f.name == luks {
		return fmt.Errorf("the image is %s, which the guest itself may open: say so with format=raw", f.says)
	}
	return fmt.Errorf("the image is %s, which stile does not read: convert it with: qemu-img convert -f %s -O raw %q NEW; "+
		"format=raw gives the guest the file's bytes as they are", f.says, f.name, path)
}
