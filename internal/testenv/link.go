package testenv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// Numbers of <linux/fuse.h>.
const (
	fuseLookup   = 1
	fuseGetattr  = 3
	fuseReadlink = 5
	fuseStatfs   = 17
	fuseInit     = 26
	fuseLink     = 2 // the link's inode; the folder's is 1
)

// linksFS is a file system with one symbolic link, of which it says that its size is another than that of its target.
type linksFS struct {
	target string
	size   uint64
}

// MountLink mounts a file system whose only file, "link", is a symbolic link. It says that the link has size bytes, whatever
// the target has. It returns the folder, which is unmounted at the end of the test.
func MountLink(t *testing.T, target string, size uint64) string {
	t.Helper()
	l := linksFS{target: target, size: size}
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		Missing(t, "fuse", err.Error())
	}
	dir := t.TempDir()
	if err := unix.Mount("links", dir, "fuse", unix.MS_NODEV|unix.MS_NOSUID, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", dev)); err != nil {
		unix.Close(dev)
		Missing(t, "fuse", "mount: "+err.Error())
	}
	done := make(chan error, 1)
	go func() { done <- l.serve(dev) }()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		unix.Close(dev)
	})
	return dir
}

// serve answers until the file system is unmounted.
func (l linksFS) serve(dev int) error {
	request := make([]byte, 1<<17)
	for {
		n, err := unix.Read(dev, request)
		switch {
		case errors.Is(err, unix.ENODEV):
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT):
			continue
		case err != nil:
			return err
		}
		order := binary.LittleEndian
		body, errno := l.answer(order.Uint32(request[4:]), order.Uint64(request[16:]), request[40:n])
		reply := order.AppendUint32(nil, uint32(16+len(body)))
		reply = order.AppendUint32(reply, uint32(-int32(errno)))
		reply = order.AppendUint64(reply, order.Uint64(request[8:]))
		if _, err := unix.Write(dev, append(reply, body...)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
}

func (l linksFS) answer(opcode uint32, inode uint64, arg []byte) ([]byte, unix.Errno) {
	order := binary.LittleEndian
	switch opcode {
	case fuseInit:
		out := make([]byte, 64)
		order.PutUint32(out, 7)
		order.PutUint32(out[4:], 31)
		order.PutUint32(out[20:], 4096) // max_write
		return out, 0
	case fuseGetattr:
		return append(make([]byte, 16), l.attr(inode)...), 0
	case fuseLookup:
		if string(bytes.TrimRight(arg, "\x00")) != "link" {
			return nil, unix.ENOENT
		}
		return append(order.AppendUint64(nil, fuseLink), append(make([]byte, 32), l.attr(fuseLink)...)...), 0
	case fuseStatfs:
		return make([]byte, 80), 0
	case fuseReadlink:
		return []byte(l.target), 0
	}
	return nil, unix.ENOSYS
}

// attr is a struct fuse_attr.
func (l linksFS) attr(inode uint64) []byte {
	order, out := binary.LittleEndian, make([]byte, 88)
	mode, size := uint32(unix.S_IFDIR|0o755), uint64(0)
	if inode == fuseLink {
		mode, size = unix.S_IFLNK|0o777, l.size
	}
	order.PutUint64(out, inode)
	order.PutUint64(out[8:], size)
	order.PutUint32(out[60:], mode)
	order.PutUint32(out[64:], 1)
	return out
}
