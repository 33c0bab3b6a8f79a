package boot

import (
	"bufio"
	"bytes"
	"io"
)

// cpioMagics start the archives that Linux unpacks as an initramfs (Documentation/driver-api/early-userspace/buffer-format.rst).
func cpioMagics() []string { return []string{"070701", "070702"} }

// sniffWindow bounds the memory for a decompressor that shows a few bytes, in bytes.
const sniffWindow = 8 << 20

// Classic reports whether i is certainly neither a cpio archive nor a compressed one: a classic initial RAM disk, the image of
// a file system such as ext2 or squashfs, for which Linux is about to lose its support. An archive may stand behind zeros.
func (i *Initrd) Classic() bool {
	head, err := readHead(i.Data, i.Size)
	if err != nil {
		return false
	}
	head = bytes.TrimLeft(head, "\x00")
	if len(head) == 0 && i.Size > headSize {
		return true // zeros, as before ext2's superblock
	}
	if len(head) == 0 || isCPIO(head) {
		return false
	}
	for _, c := range codecs() {
		if bytes.HasPrefix(head, []byte(c.magic)) {
			return c.open != nil && !i.holdsCPIO(c, head)
		}
	}
	return true
}

func isCPIO(head []byte) bool {
	for _, m := range cpioMagics() {
		if bytes.HasPrefix(head, []byte(m)) {
			return true
		}
	}
	return false
}

// holdsCPIO reports whether i unpacks to an archive, or to what can't be seen here.
func (i *Initrd) holdsCPIO(c codec, head []byte) bool {
	skipped := min(i.Size, headSize) - int64(len(head))
	packed := bufio.NewReader(io.NewSectionReader(i.Data, skipped, i.Size-skipped))
	r, done, err := c.open(packed, sniffWindow)
	if err != nil {
		return true
	}
	defer done()
	var first [6]byte
	if _, err := io.ReadFull(r, first[:]); err != nil {
		return true
	}
	return isCPIO(first[:])
}
