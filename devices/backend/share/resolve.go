package share

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// resolver opens paths of several components without following a symbolic link.
type resolver struct {
	openat2 bool // the kernel has openat2(2) (5.6) and no seccomp filter refuses it
}

// resolveTries bounds retries after EAGAIN, which openat2 returns when a rename on the host
// interferes.
const resolveTries = 16

func probeResolver(rootFD int) resolver {
	fd, err := openAt2(rootFD, []byte(".\x00"), beneath())
	if err != nil {
		return resolver{}
	}
	unix.Close(fd)
	return resolver{openat2: true}
}

func beneath() *unix.OpenHow {
	return &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
}

// open returns an O_PATH descriptor of path, which is relative to dirfd, ends in NUL and holds
// neither "." nor "..". It changes path.
func (r resolver) open(dirfd int, path []byte) (int, error) {
	if bytes.IndexByte(path, '/') < 0 {
		return openAt(dirfd, path, unix.O_PATH|unix.O_NOFOLLOW)
	}
	if !r.openat2 {
		return openComponents(dirfd, path)
	}
	for range resolveTries {
		fd, err := openAt2(dirfd, path, beneath())
		if err != unix.EAGAIN {
			return fd, err
		}
	}
	return -1, unix.ESTALE
}

func openComponents(dirfd int, path []byte) (int, error) {
	dir := dirfd
	for {
		end := bytes.IndexByte(path, '/')
		name, flags := path, unix.O_PATH|unix.O_NOFOLLOW
		if end >= 0 {
			path[end] = 0
			name, path, flags = path[:end+1], path[end+1:], flags|unix.O_DIRECTORY
		}
		fd, err := openAt(dir, name, flags)
		if dir != dirfd {
			unix.Close(dir)
		}
		if err != nil || end < 0 {
			return fd, err
		}
		dir = fd
	}
}
