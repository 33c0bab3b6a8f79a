package lab

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// useRAM lets b's memory file be what QEMU can open. QEMU opens it for writing also where it keeps what it writes to
// itself; a file that can't be written to is copied into memory first, which takes 0.2 s.
func (m *media) useRAM(b *backend) error {
	if b.shared || unix.Access(b.ram, unix.W_OK) == nil {
		return nil
	}
	from, err := os.Open(b.ram)
	if err != nil {
		return err
	}
	defer from.Close()
	fd, err := unix.MemfdCreate("stile-lab-ram", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("memory for a copy of %s: %w", b.ram, err)
	}
	to := os.NewFile(uintptr(fd), "ram")
	if err := copySparse(to, from); err != nil {
		to.Close()
		return fmt.Errorf("copy %s into memory: %w", b.ram, err)
	}
	b.ram = m.add(to)
	return nil
}

// copySparse copies the parts of a file that have blocks.
func copySparse(to, from *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := to.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); ; {
		start, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // holes up to the end
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(from.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(to, start), io.NewSectionReader(from, start, end-start)); err != nil {
			return err
		}
		at = end
	}
}
