package share

import (
	"hash/maphash"

	"golang.org/x/sys/unix"
)

// Bits of a QID's type.
const (
	qidDir     = 0x80
	qidSymlink = 0x02
)

// A QID's path is: 0, 15 bits of device index, 48 bits of inode number; or 1 and 63 bits of
// hash where one of them does not fit.
const (
	inodeBits  = 48
	maxDevices = 1 << 15
	hashedQID  = 1 << 63
)

// fileID tells files apart.
type fileID struct{ dev, ino uint64 }

// device is one file system of the host, as far as a QID needs it.
type device struct {
	index uint64 // 0 is the folder's own
}

// qid identifies a file and its state to the guest.
type qid struct {
	typ     uint8
	version uint32
	path    uint64
}

func identify(st *unix.Statx_t) fileID {
	return fileID{dev: unix.Mkdev(st.Dev_major, st.Dev_minor), ino: st.Ino}
}

func fileType(st *unix.Statx_t) uint32 { return uint32(st.Mode) & unix.S_IFMT }

func (s *Share) qid(st *unix.Statx_t) qid {
	return qid{typ: qidType(fileType(st)), version: version(st), path: s.qidPath(identify(st))}
}

func qidType(typ uint32) uint8 {
	switch typ {
	case unix.S_IFDIR:
		return qidDir
	case unix.S_IFLNK:
		return qidSymlink
	}
	return 0
}

// version changes with the file. It is odd because Linux (6.4 and later) does not cache a file
// of version 0.
func version(st *unix.Statx_t) uint32 {
	c := uint64(st.Ctime.Sec)*1e9 + uint64(st.Ctime.Nsec)
	m := uint64(st.Mtime.Sec)*1e9 + uint64(st.Mtime.Nsec)
	h := (c ^ m<<1 ^ st.Size) * 0x9e3779b97f4a7c15
	return uint32(h>>32) | 1
}

func (s *Share) qidPath(id fileID) uint64 {
	if id.dev == s.rootID.dev && id.ino>>inodeBits == 0 {
		return id.ino
	}
	if d := s.device(id.dev); d.index < maxDevices && id.ino>>inodeBits == 0 {
		return d.index<<inodeBits | id.ino
	}
	return hashedQID | maphash.Comparable(s.seed, id)
}

// device returns the file system with the number dev, which gets the next index if it is new.
func (s *Share) device(dev uint64) device {
	s.mu.RLock()
	d, ok := s.devices[dev]
	s.mu.RUnlock()
	if ok {
		return d
	}
	return s.addDevice(dev)
}

func (s *Share) addDevice(dev uint64) device {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.devices[dev]; ok {
		return d
	}
	d := device{index: uint64(len(s.devices))}
	s.devices[dev] = d
	return d
}

// hidden reports whether the file path in the directory dirfd belongs to a file system of the kernel. It is asked each time:
// the number of a file system that was unmounted is given to the next one.
func hidden(dirfd int, path []byte) (bool, error) {
	fd, err := openAt(dirfd, path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	return isKernelFS(fd)
}

// Magic numbers that x/sys lacks (include/uapi/linux/magic.h and the file systems' sources).
const (
	fusectlMagic  = 0x65735543
	mqueueMagic   = 0x19800202
	configfsMagic = 0x62656570
	rpcPipeMagic  = 0x67596969
	nfsdMagic     = 0x6e667364
)

// isKernelFS reports whether fd lies on a file system that shows the kernel's state. autofs is
// among them: to look into it would mount things on the host.
func isKernelFS(fd int) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return false, err
	}
	switch uint32(st.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC,
		unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC,
		unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC, unix.SELINUX_MAGIC, unix.SMACK_MAGIC,
		unix.BINFMTFS_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.NSFS_MAGIC, unix.RDTGROUP_SUPER_MAGIC,
		unix.XENFS_SUPER_MAGIC, unix.AUTOFS_SUPER_MAGIC,
		fusectlMagic, mqueueMagic, configfsMagic, rpcPipeMagic, nfsdMagic:
		return true, nil
	}
	return false, nil
}
