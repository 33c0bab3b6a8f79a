package boot

import (
	"bytes"
	"fmt"
	"io"
)

// headSize is how much of a file is looked at to tell what it is: the boot sector and
// the setup header of a bzImage.
const headSize = 1024

// magic is a byte string at an offset that tells a kind of file.
type magic struct {
	off    int
	bytes  string
	what   string // "gzip-compressed data"
	remedy string
}

const (
	unpackRemedy = "unpack it first"
	archRemedy   = "use a kernel built for x86-64"
)

// notKernels lists what people pass as a kernel by mistake, the more specific first.
func notKernels() []magic {
	return []magic{
		{0x38, "ARM\x64", "an arm64 Image", archRemedy},
		{0x24, "\x18\x28\x6f\x01", "an ARM zImage", archRemedy},
		{0x38, "RSC\x05", "a RISC-V Image", archRemedy},
		{0, "070701", "a cpio archive, so an initramfs", "pass it with -i, and the kernel with -k"},
		{0, "070702", "a cpio archive, so an initramfs", "pass it with -i, and the kernel with -k"},
		{0, "070707", "an old cpio archive", "an initramfs (cpio -H newc) goes with -i, the kernel with -k"},
		{0, "\x1f\x8b", "gzip-compressed data (an initramfs, which goes with -i, or a packed kernel)", unpackRemedy + " (gzip -dc)"},
		{0, "\xfd7zXZ\x00", "xz-compressed data (an initramfs, which goes with -i, or a packed kernel)", unpackRemedy + " (xz -dc)"},
		{0, "\x28\xb5\x2f\xfd", "zstd-compressed data (an initramfs, which goes with -i, or a packed kernel)", unpackRemedy + " (zstd -dc)"},
		{0, "\x02\x21\x4c\x18", "lz4-compressed data (an initramfs, which goes with -i, or a packed kernel)", unpackRemedy + " (lz4 -dc)"},
		{0, "\x04\x22\x4d\x18", "lz4-compressed data", unpackRemedy + " (lz4 -dc)"},
		{0, "BZh", "bzip2-compressed data", unpackRemedy + " (bzip2 -dc)"},
		{0, "\x89LZO\x00\r\n\x1a\n", "lzop-compressed data", unpackRemedy + " (lzop -dc)"},
		{0, "\x5d\x00\x00", "lzma-compressed data", unpackRemedy + " (lzma -dc)"},
		{0, "\x27\x05\x19\x56", "a U-Boot image", "use the vmlinux or bzImage it was made from"},
		{4, "zimg", "an EFI zboot image", "use the vmlinux or bzImage it was made from"},
		{0, "MZ", "an EFI program without a Linux setup header", "of a unified kernel image take the kernel out: objcopy -O binary --only-section=.linux IMAGE vmlinuz"},
		{0, "#!", "a script", "use a bzImage or an ELF vmlinux"},
		{0, "QFI\xfb", "a qcow2 disk image", "pass it with --disk"},
		{0, "hsqs", "a squashfs image", "pass it with --disk"},
		{0, "!<arch>\n", "a Debian package or library archive", "take the kernel out of it (dpkg-deb -x)"},
		{0, "\xed\xab\xee\xdb", "an RPM package", "take the kernel out of it (rpm2cpio)"},
		{0x1fe, "\x55\xaa", "a boot sector or disk image without a Linux setup header", "use a bzImage or an ELF vmlinux"},
	}
}

// readHead returns the first bytes of a file, at most headSize.
func readHead(r io.ReaderAt, size int64) ([]byte, error) {
	head := make([]byte, min(size, headSize))
	return head, readAt(r, head, 0)
}

func (m *magic) match(head []byte) bool {
	return len(head) >= m.off && bytes.HasPrefix(head[m.off:], []byte(m.bytes))
}

// notAKernel says what a file that is neither ELF nor bzImage seems to be.
func notAKernel(head []byte) error {
	for _, m := range notKernels() {
		if m.match(head) {
			return fmt.Errorf("neither a bzImage nor an ELF vmlinux, but %s: %s", m.what, m.remedy)
		}
	}
	if len(head) < headSize {
		return fmt.Errorf("neither a bzImage nor an ELF vmlinux, and with %d bytes too short for a kernel: check the path, or fetch it again", len(head))
	}
	return fmt.Errorf("neither a bzImage nor an ELF vmlinux (it begins with % x): check the path, or fetch it again", head[:8])
}
