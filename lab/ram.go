package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/sys"
)

// useRAM lets b's memory file be what QEMU can open, and what does not grow by being used. QEMU opens it for writing also
// where it keeps what it writes to itself; a file that can't be written to is copied into memory first, which takes 0.2 s.
// So is one whose holes are filled when they are read: the copy ends with the run.
func (m *media) useRAM(b *backend) error {
	if b.shared || unix.Access(b.ram, unix.W_OK) == nil && !fillsHoles(filepath.Dir(b.ram)) {
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
	// Nobody else has it: QEMU need not copy once more what the machine writes to.
	b.ram, b.shared = m.add(to), true
	return nil
}

// fillsHoles reports whether files in dir get blocks where a hole is read through a mapping: those of tmpfs do, and those
// of an overlay on it.
func fillsHoles(dir string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false
	}
	switch st.Type {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return true
	case unix.OVERLAYFS_SUPER_MAGIC:
		return st.Bavail == 0 || probeHole(dir)
	}
	return false
}

// probeHole has a hole read and looks whether it has become a block. There is room for one.
func probeHole(dir string) bool {
	f, err := os.CreateTemp(dir, tempPrefix)
	if err != nil {
		return false
	}
	defer f.Close()
	defer os.Remove(f.Name())
	page := os.Getpagesize()
	if err := f.Truncate(int64(page)); err != nil {
		return false
	}
	fd, err := sys.Open(f.Name(), unix.O_RDONLY)
	if err != nil {
		return false
	}
	defer fd.Close()
	mapping, err := sys.Map(fd, 0, page, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		return false
	}
	defer mapping.Close()
	var st unix.Stat_t
	return unix.Fstat(fd.Int(), &st) == nil && st.Blocks > 0
}

// digStep is the smallest hole worth making, in bytes: with many small ones, a file has many extents.
const digStep = 64 << 10

// digHoles gives back the blocks of a file that hold nothing but zeros. A booted machine's memory has many: the kernel has read
// them, or cleared them before it gave them away. A file system without holes keeps them.
func digHoles(f *os.File) error {
	zeros, buffer := make([]byte, digStep), make([]byte, digStep)
	return eachData(f, func(start, end int64) error {
		for at := (start + digStep - 1) / digStep * digStep; at+digStep <= end; at += digStep {
			if _, err := f.ReadAt(buffer, at); err != nil {
				return err
			}
			if !bytes.Equal(buffer, zeros) {
				continue
			}
			err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, digStep)
			if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("punch a hole into %s: %w", f.Name(), err)
			}
		}
		return nil
	})
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
	return eachData(from, func(start, end int64) error {
		_, err := io.Copy(io.NewOffsetWriter(to, start), io.NewSectionReader(from, start, end-start))
		return err
	})
}

// eachData calls fn for the parts of a file that have blocks.
func eachData(f *os.File, fn func(start, end int64) error) error {
	for at := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // holes up to the end
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := fn(start, end); err != nil {
			return err
		}
		at = end
	}
}

// envCache names the variable that sets the cache's folder; images.EnvCache is the same.
const envCache = "STILE_CACHE"

// stateSpace returns what it takes to build a state of a machine with mem bytes: 380 MB with 2 GiB where holes are
// filled, and the kernel's own tables grow with the memory. A state that is done has less.
func stateSpace(mem int64) int64 { return 352*MiB + mem/64 }

// checkSpace refuses to build what would end in the middle: writing to a mapped file on a full disk kills QEMU.
func (s *Store) checkSpace(mem int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil || st.Blocks == 0 {
		return nil // a file system that doesn't say
	}
	free, need := int64(st.Bavail)*st.Bsize, stateSpace(mem)
	if free >= need {
		return nil
	}
	return fmt.Errorf("%w: a saved state takes %d MiB while it is made, and %s has %d MiB free: "+
		"run `stile image prune --all`, or set %s to a folder on a larger disk", errNoSpace, (need+MiB-1)/MiB, s.dir, free/MiB, envCache)
}

// errNoSpace is in the error of checkSpace.
var errNoSpace = errors.New("not enough space for the lab")
