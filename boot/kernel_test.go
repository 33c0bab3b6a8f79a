package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/layout"
)

// patched returns b with bytes replaced at off.
func patched(b []byte, off int, with ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[off:], with)
	return b
}

func padded(s string) []byte { return append([]byte(s), make([]byte, 4096)...) }

func at(off int, s string) []byte { return patched(make([]byte, 4096), off, []byte(s)...) }

func TestBadKernels(t *testing.T) {
	elf := smallELF().bytes()
	bz := smallBzImage(appendSize([]byte("\x1f\x8bxxxx"), 100)).bytes()
	prog := elfHeaderSize
	withLoad := func(s testSegment) []byte {
		return testELF{entry: layout.HighRAM, segments: []testSegment{s}}.bytes()
	}
	tests := []struct {
		name  string
		image []byte
		want  string
	}{
		{"empty", nil, "is empty"},
		{"one byte", []byte{1}, "too short for a kernel"},
		{"zeros", make([]byte, 4096), "neither a bzImage nor an ELF vmlinux (it begins with 00"},
		{"garbage", bytes.Repeat([]byte{0xa5}, 4096), "neither a bzImage nor an ELF vmlinux (it begins with a5"},
		{"gzip", padded("\x1f\x8b\x08"), "gzip-compressed data"},
		{"xz", padded("\xfd7zXZ\x00"), "xz -dc"},
		{"zstd", padded("\x28\xb5\x2f\xfd"), "zstd -dc"},
		{"lz4", padded("\x02\x21\x4c\x18"), "lz4 -dc"},
		{"lzma", padded("\x5d\x00\x00\x80"), "lzma-compressed"},
		{"bzip2", padded("BZh9"), "bzip2-compressed"},
		{"lzop", padded("\x89LZO\x00\r\n\x1a\n"), "lzop-compressed"},
		{"initramfs", padded("070701"), "an initramfs: pass it with -i"},
		{"arm64", at(0x38, "ARM\x64"), "an arm64 Image: use a kernel built for x86-64"},
		{"ARM", at(0x24, "\x18\x28\x6f\x01"), "an ARM zImage"},
		{"RISC-V", at(0x38, "RSC\x05"), "a RISC-V Image"},
		{"EFI", padded("MZ"), "--only-section=.linux"},
		{"script", padded("#!/bin/sh\n"), "a script"},
		{"disk", at(0x1fe, "\x55\xaa"), "boot sector or disk image"},
		{"qcow2", padded("QFI\xfb"), "--disk"},

		{"ELF cut in its header", elf[:40], "truncated: its headers ask for 64 bytes, it has 40"},
		{"ELF cut in its program headers", elf[:100], "truncated"},
		{"ELF cut in its segment", elf[:len(elf)-1], "truncated"},
		{"ELF for i386", patched(elf, 4, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3), "32-bit x86"},
		{"ELF x32", patched(elf, 4, 1), "x32"},
		{"ELF for arm64", patched(elf, 18, 183), "for arm64"},
		{"ELF for an unknown machine", patched(elf, 18, 0xff, 0xff), "machine 65535"},
		{"ELF big-endian", patched(elf, 5, 2), "big-endian"},
		{"ELF module", patched(elf, 16, 1), "kernel module"},
		{"ELF core dump", patched(elf, 16, 4), "core dump"},
		{"ELF of type 9", patched(elf, 16, 9), "type 9"},
		{"ELF without program headers", patched(elf, 56, 0), "nothing to load"},
		{"ELF with only a note", testELF{notes: []testNote{linuxNote()}}.bytes(), "nothing to load"},
		{"ELF with many program headers", patched(elf, 56, 0xff, 0xff), "65535 program headers"},
		{"ELF with program headers elsewhere", patched(elf, 32, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "damaged"},
		{"ELF with a segment elsewhere", patched(elf, prog+8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f), "damaged"},
		{"ELF with more in the file", patched(elf, prog+40, 1), "0x40 bytes in the file for 0x1"},
		{"ELF below 1 MiB", withLoad(testSegment{phys: 0x1000, data: []byte{1}}), "boot structures"},
		{"ELF above 4 GiB", withLoad(testSegment{phys: 1 << 32, data: []byte{1}}), "not below 4 GiB"},
		{"ELF across 4 GiB", withLoad(testSegment{phys: 1<<32 - 1, data: []byte{1, 2}}), "not below 4 GiB"},
		{"ELF of endless size", withLoad(testSegment{phys: layout.HighRAM, data: []byte{1}, memSize: 1<<64 - 1}), "not below 4 GiB"},
		{"ELF entered elsewhere", testELF{entry: 0x5000, segments: smallELF().segments}.bytes(), "entry point 0x5000"},
		{"PVH entered elsewhere", smallELF().with(pvhNote(0x5000)).bytes(), "PVH entry point 0x5000"},

		{"bzImage cut in its header", bz[:700], "truncated: its headers ask for 1024"},
		{"bzImage cut in its code", bz[:len(bz)-1], "truncated"},
		{"bzImage of protocol 2.11", patched(bz, hdrVersion, 0x0b), "boot protocol 2.11"},
		{"32-bit bzImage", patched(bz, hdrXLoadFlags, 0), "32-bit bzImage"},
		{"zImage", patched(bz, hdrLoadFlags, 0), "zImage"},
		{"bzImage with a short header", patched(bz, hdrJump, 0x20), "setup header ends at 0x222"},
		{"bzImage without code", patched(bz, hdrSysSize, 0, 0, 0, 0), "damaged"},
		{"bzImage with a small init_size", patched(bz, hdrInitSize, 1, 0, 0, 0), "init_size 0x1"},
		{"bzImage at an odd address", patched(bz, hdrPrefAddress, 1), "wants to be loaded at 0x1000001"},
		{"bzImage above 4 GiB", patched(bz, hdrPrefAddress+4, 1), "between 1 MiB and 4 GiB"},
		{"bzImage low", patched(bz, hdrPrefAddress, 0, 0x10, 0, 0), "between 1 MiB and 4 GiB"},
		{"bzImage with its payload elsewhere", patched(bz, hdrPayloadOffset, 0xff, 0xff), "not within the code"},
		{"bzImage with an endless payload", patched(bz, hdrPayloadLength, 0xff, 0xff, 0xff, 0xff), "not within the code"},
		{"bzImage without payload", patched(bz, hdrPayloadLength, 0, 0), "not within the code"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewKernel("vmlinuz", bytes.NewReader(tt.image), int64(len(tt.image)))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error with %q", err, tt.want)
			}
			if !strings.HasPrefix(err.Error(), "kernel vmlinuz: ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q does not name the file, or has more than one line", err)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "check the path") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("directory: %v", err)
	}
	if _, err := Open(write("empty", nil, 0o600)); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("empty file: %v", err)
	}
	if _, err := Open(os.DevNull); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("device: %v", err)
	}
	k, err := Open(write("vmlinux", smallELF().bytes(), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(k.Close(), k.Close()); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func TestDescribeOpen(t *testing.T) {
	err := describeOpen(&os.PathError{Op: "open", Path: "/boot/vmlinuz", Err: os.ErrPermission})
	if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "readable") {
		t.Errorf("permission: %v", err)
	}
}

func TestELFProperties(t *testing.T) {
	virt := uint64(0xffffffff81000000)
	high := testELF{entry: virt + 8, segments: []testSegment{
		{virt: virt, phys: 0x1000000, data: make([]byte, 64), memSize: 0x5000},
		{virt: 0, phys: 0x1005000, data: make([]byte, 16)},
	}}
	tests := []struct {
		name             string
		elf              testELF
		entry, pvh, end  uint64
		linux            bool
		protocol         Protocol
		wantPVH, wantErr bool
	}{
		{name: "plain", elf: smallELF(), entry: 0x100000, end: 0x100040},
		{name: "virtual entry", elf: high, entry: 0x1000008, end: 0x1005010},
		{name: "PVH", elf: smallELF().with(pvhNote(0x100010)), entry: 0x100000, pvh: 0x100010, end: 0x100040, wantPVH: true},
		{name: "PVH of 32 bits", elf: smallELF().with(testNote{"Xen", 18, []byte{0x10, 0, 0x10, 0}}), entry: 0x100000, pvh: 0x100010, end: 0x100040, wantPVH: true},
		{name: "other notes", elf: smallELF().with(testNote{"GNU", 3, []byte("abc")}, testNote{"Xen", 6, []byte("linux")}), entry: 0x100000, end: 0x100040},
		{name: "Linux with PVH", elf: smallELF().with(linuxNote(), pvhNote(0x100010)), entry: 0x100000, pvh: 0x100010, end: 0x100040, linux: true},
		{name: "Linux with PVH forced", elf: smallELF().with(linuxNote(), pvhNote(0x100010)), entry: 0x100000, pvh: 0x100010, end: 0x100040, linux: true, protocol: PVH, wantPVH: true},
		{name: "64-bit forced", elf: smallELF().with(pvhNote(0x100010)), entry: 0x100000, pvh: 0x100010, end: 0x100040, protocol: Linux64},
		{name: "PVH forced without", elf: smallELF(), entry: 0x100000, end: 0x100040, protocol: PVH, wantErr: true},
		{name: "unknown protocol", elf: smallELF(), entry: 0x100000, end: 0x100040, protocol: 9, wantErr: true},
	}
	for _, tt := range tests {
		k := newKernel(t, tt.elf.bytes())
		if k.elf.entry != tt.entry || k.elf.pvhEntry != tt.pvh || k.End() != tt.end || k.Linux() != tt.linux || k.Format() != ELF {
			t.Errorf("%s: entry %#x, PVH %#x, end %#x, Linux %v, %v", tt.name, k.elf.entry, k.elf.pvhEntry, k.End(), k.Linux(), k.Format())
		}
		if pvh, err := k.usePVH(tt.protocol); pvh != tt.wantPVH || (err != nil) != tt.wantErr {
			t.Errorf("%s: usePVH %v, %v", tt.name, pvh, err)
		}
	}
}

func TestNotesThatExceed(t *testing.T) {
	image := smallELF().with(linuxNote()).bytes()
	note := len(image) - len(linuxNote().bytes())
	for _, field := range []int{0, 4} { // sizes of name and descriptor
		for _, v := range []uint32{0x7fffffff, 0xffffffff, 0x1000} {
			b := bytes.Clone(image)
			binary.LittleEndian.PutUint32(b[note+field:], v)
			if _, err := NewKernel("x", bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), "note exceeds") {
				t.Errorf("size %#x at %d: %v", v, field, err)
			}
		}
	}
}
