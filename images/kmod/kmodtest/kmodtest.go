// Package kmodtest makes kernel modules up for tests.
package kmodtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Sizes of ELF64's structs, in bytes.
const (
	headerSize  = 64
	sectionSize = 64
	symbolSize  = 24
)

// Module makes an ELF file with a .modinfo section, and a symbol table that has what it exports with checksums, and what it uses:
// symbols that start with !.
func Module(info []string, symbolNames ...string) []byte {
	texts, symbols := "\x00", make([]byte, symbolSize)
	for _, name := range symbolNames {
		const global, absolute = 0x10, 0xfff1
		symbols = binary.LittleEndian.AppendUint32(symbols, uint32(len(texts)))
		symbols = append(symbols, global, 0)
		if used, ok := strings.CutPrefix(name, "!"); ok {
			symbols = append(symbols, make([]byte, symbolSize-6)...)
			texts += used + "\x00"
			continue
		}
		symbols = binary.LittleEndian.AppendUint16(symbols, absolute)
		symbols = append(symbols, make([]byte, symbolSize-8)...)
		texts += "__crc_" + name + "\x00"
	}
	names := "\x00.modinfo\x00.shstrtab\x00.symtab\x00.strtab\x00"
	contents := [][]byte{nil, []byte(strings.Join(info, "\x00") + "\x00"), []byte(names), symbols, []byte(texts)}
	kinds := []uint32{0, 1, 3, 2, 3}
	var body, headers bytes.Buffer
	put := func(v any) { _ = binary.Write(&headers, binary.LittleEndian, v) }
	for i, content := range contents {
		offset := uint64(headerSize + body.Len())
		if i == 0 {
			put(make([]byte, sectionSize))
			continue
		}
		body.Write(content)
		name := max(0, strings.Index(names, []string{"", ".modinfo", ".shstrtab", ".symtab", ".strtab"}[i]))
		put([]uint32{uint32(name), kinds[i]})
		put([]uint64{0, 0, offset, uint64(len(content))})
		put([]uint32{4, 0}) // the symbols' link
		put([]uint64{1, symbolSize})
	}
	file := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	file = binary.LittleEndian.AppendUint16(file, 1)  // ET_REL
	file = binary.LittleEndian.AppendUint16(file, 62) // EM_X86_64
	file = binary.LittleEndian.AppendUint32(file, 1)
	for _, v := range []uint64{0, 0, uint64(headerSize + body.Len())} {
		file = binary.LittleEndian.AppendUint64(file, v)
	}
	file = binary.LittleEndian.AppendUint32(file, 0)
	for _, v := range []uint16{headerSize, 0, 0, sectionSize, uint16(len(contents)), 2} {
		file = binary.LittleEndian.AppendUint16(file, v)
	}
	return slices.Concat(file, body.Bytes(), headers.Bytes())
}

// compress packs by a file's extension.
func compress(t testing.TB, path string, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	switch filepath.Ext(path) {
	case ".gz":
		w := gzip.NewWriter(&b)
		_, err := w.Write(content)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
	case ".zst":
		w, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(content)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
	default:
		return content
	}
	return b.Bytes()
}

// Write writes a file, and the folders above it.
func Write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// Tree writes modules of all sorts, and the lists that a kernel's build leaves.
func Tree(t testing.TB, dir string) {
	t.Helper()
	for path, module := range map[string][]byte{
		"kernel/drivers/net/tun.ko":    Module([]string{"license=GPL", "depends=", "alias=devname:net/tun", "alias=char-major-10-200", "alias=rtnl-link-tun"}, "tun_get_socket"),
		"kernel/fs/xfs/xfs.ko":         Module([]string{"depends=libcrc32c", "alias=fs-xfs", "softdep=pre: crc32c"}, "!crc32c"),
		"kernel/lib/libcrc32c.ko":      Module([]string{"depends="}, "crc32c"),
		"kernel/crypto/crc32c-x.ko":    Module([]string{"depends=", "alias=crypto-crc32c", "alias=crc32c"}),
		"kernel/crypto/crc32c-y.ko":    Module([]string{"depends=", "alias=crypto-crc32c", "alias=crc32c"}),
		"kernel/drivers/a.ko":          Module([]string{"depends=b,c", "alias=pci:v00008086d*sv*sd*bc02sc[0-3]0i*", "alias=acpi*:PNP-0?:*"}, "!b1", "!c1"),
		"kernel/drivers/b.ko.gz":       Module([]string{"depends=d"}, "b1", "b2", "!d1"),
		"kernel/drivers/c.ko.zst":      Module([]string{"depends=d", "weakdep=b"}, "c1", "!d1"),
		"kernel/drivers/d.ko":          Module([]string{"depends=", "alias=devname:d-node", "alias=block-major-7-3"}, "d1"),
		"kernel/drivers/replaced.ko":   Module([]string{"depends=", "alias=old"}),
		"updates/dkms/replaced.ko":     Module([]string{"depends=d", "alias=new"}, "!d1"),
		"kernel/drivers/not-listed.ko": Module([]string{"depends=fuse"}),
	} {
		Write(t, filepath.Join(dir, path), compress(t, path, module))
	}
	Write(t, filepath.Join(dir, "modules.order"), []byte("kernel/lib/libcrc32c.ko\nkernel/crypto/crc32c-y.ko\nkernel/crypto/crc32c-x.ko\nkernel/drivers/net/tun.ko\n"+
		"kernel/fs/xfs/xfs.ko\nkernel/drivers/d.ko\nkernel/drivers/c.ko\nkernel/drivers/b.ko\nkernel/drivers/a.ko\nkernel/drivers/replaced.ko\n"))
	Write(t, filepath.Join(dir, "modules.builtin"), []byte("kernel/fs/fuse/fuse.ko\nkernel/drivers/tty/serial/8250/8250-base.ko\n"))
	Write(t, filepath.Join(dir, "modules.builtin.modinfo"), []byte("fuse.alias=fs-fuse\x00fuse.alias=devname:fuse\x00fuse.license=GPL\x00"))
}
