package share

import (
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	maxXattr      = 64 << 10 // XATTR_SIZE_MAX and XATTR_LIST_MAX (linux/limits.h)
	maxXattrs     = 4 << 20  // bytes of all values under way in a session
	maxXattrName  = 255
	removeOnEmpty = unix.XATTR_REPLACE // flags of a Txattrcreate of no bytes that stands for removexattr(2)
)

// xattr is an extended attribute, or the list of names, that a fid stands for.
type xattr struct {
	create bool // written to the file when the fid is clunked
	name   string
	flags  int
	size   int // bytes announced; counted in Session.xattrs

	mu    sync.Mutex
	value []byte
}

// capability makes programs privileged. A guest can see it, since its kernel asks for it before it executes or changes a
// file, and take it away, but not set it: the host's kernel would believe it.
const capability = "security.capability"

// sharedXattr reports whether the guest sees attributes of this name. Those of overlayfs, of
// labels and of ACLs mean something to the host's kernel only.
func sharedXattr(name string) bool {
	return strings.HasPrefix(name, "user.") || name == capability
}

// procPath names an O_PATH descriptor to calls that take no such descriptor.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func (s *Session) xattrwalk(c *Call, d *decoder) error {
	id, newID := d.u32(), d.u32()
	nameBytes := d.str()
	if d.bad || id == newID || len(nameBytes) > maxXattrName {
		return unix.EINVAL
	}
	f, err := s.get(id)
	if err != nil {
		return err
	}
	defer s.put(f)
	// Most requests are for attributes that are never there: they end here.
	name := string(nameBytes)
	if name != "" && !sharedXattr(name) {
		return unix.ENODATA
	}
	if f.node.hidden {
		return unix.EOPNOTSUPP
	}
	value, err := s.getXattr(c, f.node, name)
	if err != nil {
		return err
	}
	x, err := s.newXattr(f, &xattr{name: name, size: len(value), value: value})
	if err != nil {
		return err
	}
	if err := s.install(newID, x, nil); err != nil {
		return err
	}
	c.w.u64(uint64(len(value)))
	return nil
}

// newXattr returns a fid for x, which is not installed yet. It counts x's bytes.
func (s *Session) newXattr(f *fid, x *xattr) (*fid, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.xattrs+x.size > maxXattrs {
		return nil, unix.EMFILE
	}
	s.xattrs += x.size
	f.node.refs++
	g := &fid{node: f.node, uid: f.uid}
	g.xattr.Store(x)
	return g, nil
}

// getXattr returns the value of the attribute called name, or with no name the list of names.
func (s *Session) getXattr(c *Call, n *node, name string) ([]byte, error) {
	fd, err := s.pin(c, n)
	if err != nil {
		return nil, err
	}
	defer s.unpin(n)
	path := procPath(fd)
	if name == "" {
		return listXattrs(path)
	}
	for {
		size, err := unix.Getxattr(path, name, nil)
		if err != nil {
			return nil, err
		}
		value := make([]byte, min(size+1, maxXattr)) // Getxattr takes no bytes for "how many?"
		if size, err = unix.Getxattr(path, name, value); err != unix.ERANGE {
			return value[:max(size, 0)], err
		}
	}
}

func listXattrs(path string) ([]byte, error) {
	all := make([]byte, maxXattr)
	n, err := unix.Listxattr(path, all)
	if err != nil {
		return nil, err
	}
	var names []byte
	for name := range strings.SplitSeq(string(all[:n]), "\x00") {
		if sharedXattr(name) {
			names = append(append(names, name...), 0)
		}
	}
	return names, nil
}

// xattrcreate turns the fid into one whose written bytes become an attribute.
func (s *Session) xattrcreate(_ *Call, d *decoder) error {
	id := d.u32()
	nameBytes := d.str()
	size, flags := d.u64(), int(d.u32())
	if d.bad || len(nameBytes) > maxXattrName {
		return unix.EINVAL
	}
	if size > maxXattr {
		return unix.E2BIG
	}
	name := string(nameBytes)
	removes := size == 0 && flags == removeOnEmpty
	if !sharedXattr(name) || name == capability && !removes {
		return unix.EOPNOTSUPP
	}
	f, err := s.get(id)
	if err != nil {
		return err
	}
	defer s.put(f)
	if f.file.Load() != nil || f.xattr.Load() != nil || f.node.hidden {
		return unix.EINVAL
	}
	x := &xattr{create: true, name: name, flags: flags & (unix.XATTR_CREATE | unix.XATTR_REPLACE), size: int(size)}
	g, err := s.newXattr(f, x)
	if err != nil {
		return err
	}
	return s.install(id, g, f)
}

// setXattr writes the attribute that x has collected. A short value is a client that gave up.
func (s *Session) setXattr(f *fid, x *xattr) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.value) != x.size {
		return unix.EINVAL
	}
	c := new(Call)
	fd, err := s.pin(c, f.node)
	if err != nil {
		return err
	}
	defer s.unpin(f.node)
	if x.size == 0 && x.flags == removeOnEmpty {
		return unix.Removexattr(procPath(fd), x.name)
	}
	return unix.Setxattr(procPath(fd), x.name, x.value, x.flags)
}

// read copies up to n bytes from off on into c's response.
func (x *xattr) read(c *Call, off uint64, n int) error {
	if x.create {
		return unix.EBADF
	}
	if off > uint64(len(x.value)) {
		return unix.EINVAL
	}
	b := x.value[off:]
	b = b[:min(n, len(b))]
	c.w.u32(uint32(len(b)))
	c.w.b = append(c.w.b, b...)
	return nil
}

// write collects data, in order.
func (x *xattr) write(c *Call, off uint64, data []unix.Iovec) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := 0
	for i := range data {
		n += int(data[i].Len)
	}
	if !x.create || off != uint64(len(x.value)) || n > x.size-len(x.value) {
		return unix.EINVAL
	}
	skip := writeBytes
	left := n
	for _, b := range c.In {
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		b = b[skip:]
		skip = 0
		b = b[:min(len(b), left)]
		x.value = append(x.value, b...)
		left -= len(b)
	}
	c.w.u32(uint32(n))
	return nil
}
