package share

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/mountinfo"
)

// A folder may itself be one of 9P, as in the lab, where QEMU serves it. Its client, v9fs without a cache, keeps nothing of a name that
// nobody has open: each question about a name costs a walk, two requests for attributes and a clunk. So the descriptor that a name was
// found by stays with the node, where questions cost one request.

// isRemote reports whether fd lies on a file system of 9P. statfs(2) does not say it: v9fs passes on the server's word for
// what it has itself.
func isRemote(fd int) (bool, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return false, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	return mountType(string(mounts), mountID(string(info))) == "9p", nil
}

// mountID returns the number of the mount in what /proc/PID/fdinfo has of a descriptor, "" if it is not there (proc(5)).
func mountID(info string) string {
	for line := range strings.Lines(info) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id)
		}
	}
	return ""
}

// mountType returns the type of the file system that is mounted with this number, by what /proc/PID/mountinfo has, "" if it is not there.
func mountType(mounts, id string) string {
	for _, m := range mountinfo.Parse(mounts) {
		if m.ID == id {
			return m.Type
		}
	}
	return ""
}

// stepRemote is step by a descriptor of the file, which the node keeps. fd is the directory's.
func (s *Session) stepRemote(c *Call, dir *node, fd int, name string) (*node, error) {
	found, err := openAt(fd, c.terminated(name), unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	n, err := s.childFound(c, dir, found, name)
	if err != nil {
		unix.Close(found)
		return nil, err
	}
	s.renew(n)
	s.adopt(n, found)
	s.unpin(n)
	return n, nil
}

// childFound is child for the file that found stands for. It leaves its attributes in c.st.
func (s *Session) childFound(c *Call, dir *node, found int, name string) (*node, error) {
	if err := statFD(found, &c.st); err != nil {
		return nil, err
	}
	kernels := false
	if identify(&c.st).dev != dir.id.dev {
		var err error
		if kernels, err = isKernelFS(found); err != nil {
			return nil, err
		}
	}
	return s.child(dir, name, &c.st, kernels)
}

// renew closes the descriptor that n has from before, unless it is in use: a file that was made anew may have the old one's number.
func (s *Session) renew(n *node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.fd >= 0 && n.pins == 0 && n.parent != nil {
		s.closeHandle(n)
	}
}
