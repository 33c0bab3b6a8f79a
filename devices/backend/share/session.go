package share

import (
	"math"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Session is one guest's use of a share: its fids and the messages under way. All methods but
// Close may be called concurrently, with different Calls.
type Session struct {
	share *Share
	msize atomic.Uint32 // the agreed size of messages

	// names is held while files are found by their nodes' names, and for writing while one gets another name: on the host and
	// here at once, or a request meanwhile would miss it. It is taken before mu.
	names sync.RWMutex

	mu       sync.Mutex
	finished sync.Cond // a call has finished
	flushers int       // Tflush messages that wait for that
	calls    map[uint16]*Call
	serial   uint64
	fids     map[uint32]*fid
	root     *node
	nodes    int
	index    nameIndex
	handles  int  // open descriptors of nodes, without the root's
	recent   node // ring of nodes whose descriptor is open and not in use; the oldest is recent.newer
	opens    int  // open files, under way or done
	locks    int  // byte ranges locked on the host
	xattrs   int  // bytes of extended attributes under way
	walked   walked
}

// fid is the guest's name for a file. file and xattr are set at most once.
type fid struct {
	node  *node
	uid   uint32
	file  atomic.Pointer[openFile]
	xattr atomic.Pointer[xattr]
	refs  int // guarded by Session.mu
}

// openFile is a file opened for reading or writing. While it is open its node is pinned, so that the node can be asked
// for its attributes when it has no name any more.
type openFile struct {
	fd int // -1 for a directory of the kernel's file systems

	mu  sync.Mutex
	pos int64 // of a directory's descriptor; -1 if unknown

	lockMu sync.Mutex // held while the host is asked for a lock, which does not wait
	held   []heldRange
}

// NewSession begins a session. The caller must Close it before the share.
func (s *Share) NewSession() *Session {
	x := &Session{share: s, calls: make(map[uint16]*Call), fids: make(map[uint32]*fid), index: make(nameIndex)}
	x.finished.L = &x.mu
	x.recent.newer, x.recent.older = &x.recent, &x.recent
	x.root = &node{id: s.rootID, typ: unix.S_IFDIR, fd: s.root.Int(), refs: 1}
	x.nodes = 1
	x.msize.Store(MaxMessage)
	return x
}

// Begin takes the request from c.In. Calls are begun in the order in which the guest made them,
// so that a Tflush finds what it is to wait for.
func (s *Session) Begin(c *Call) {
	c.receive()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	c.serial = s.serial
	if _, busy := s.calls[c.tag]; !busy {
		s.calls[c.tag] = c
	}
}

// Handle does what the request asks for and puts the response into c.Out. It returns the
// response's length in bytes, 0 if c.Out is too small for any. What fails is told to the guest.
func (s *Session) Handle(c *Call) int {
	if c.room < errorBytes {
		return 0
	}
	if c.broken {
		return c.deliver(unix.EINVAL)
	}
	return c.deliver(s.dispatch(c))
}

// Finish ends a call, after its response has reached the guest.
func (s *Session) Finish(c *Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls[c.tag] == c {
		delete(s.calls, c.tag)
	}
	if s.flushers > 0 {
		s.finished.Broadcast()
	}
}

// Close closes all files. No call may be under way or follow.
func (s *Session) Close() error {
	s.clunkAll()
	return nil
}

func (s *Session) dispatch(c *Call) error {
	d := &c.body
	if c.typ == tgetattr {
		return s.getattr(c, d)
	}
	if c.typ == twalk {
		return s.walk(c, d)
	}
	s.forgetWalked()
	defer s.forgetWalked() // it may have changed the file
	switch c.typ {
	case tversion:
		return s.version(c, d)
	case tattach:
		return s.attach(c, d)
	case tflush:
		return s.flush(c, d)
	case tclunk:
		return s.clunk(c, d)
	case treadlink:
		return s.readlink(c, d)
	case tstatfs:
		return s.statfs(c, d)
	case tlopen:
		return s.open(c, d)
	case tread:
		return s.read(c, d)
	case treaddir:
		return s.readdir(c, d)
	case txattrwalk:
		return s.xattrwalk(c, d)
	case tfsync:
		return s.fsync(c, d)
	case tlock:
		return s.lock(c, d)
	case tgetlock:
		return s.getlock(c, d)
	}
	return s.dispatchChange(c, d)
}

// dispatchChange handles what changes the folder.
func (s *Session) dispatchChange(c *Call, d *decoder) error {
	var handle func(*Call, *decoder) error
	switch c.typ {
	case twrite:
		handle = s.write
	case tlcreate:
		handle = s.create
	case tsetattr:
		handle = s.setattr
	case tmkdir:
		handle = s.mkdir
	case tsymlink:
		handle = s.symlink
	case tmknod:
		handle = s.mknod
	case tlink:
		handle = s.link
	case trenameat:
		handle = s.rename
	case tunlinkat:
		handle = s.unlink
	case txattrcreate:
		handle = s.xattrcreate
	case tremove:
		return s.remove(c, d)
	default:
		return unix.EOPNOTSUPP
	}
	if s.share.readOnly {
		return unix.EROFS
	}
	return handle(c, d)
}

// version begins the session anew.
func (s *Session) version(c *Call, d *decoder) error {
	msize := min(d.u32(), MaxMessage)
	version := string(d.str())
	if d.bad {
		return unix.EINVAL
	}
	if version != "9P2000.L" && !strings.HasPrefix(version, "9P2000.L.") {
		c.w.u32(msize)
		c.w.str([]byte("unknown"))
		return nil
	}
	if msize < 4096 {
		return unix.EMSGSIZE
	}
	s.clunkAll()
	s.msize.Store(msize)
	c.w.u32(msize)
	c.w.str([]byte("9P2000.L"))
	return nil
}

func (s *Session) attach(c *Call, d *decoder) error {
	id := d.u32()
	auth := d.u32()
	d.str()
	name := d.str()
	uid := d.u32()
	if d.bad || auth != noFID {
		return unix.EINVAL
	}
	if len(name) > 0 && string(name) != "/" {
		return unix.ENOENT
	}
	if err := s.statNode(c, s.root); err != nil {
		return err
	}
	s.mu.Lock()
	s.root.refs++
	s.mu.Unlock()
	if err := s.install(id, &fid{node: s.root, uid: uid}, nil); err != nil {
		return err
	}
	c.w.qid(s.share.qid(&c.st))
	return nil
}

// flush waits until the call with the given tag is finished. It waits for no other flush, so
// that no guest can make them wait for each other.
func (s *Session) flush(_ *Call, d *decoder) error {
	tag := d.u16()
	if d.bad {
		return unix.EINVAL
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.calls[tag]
	if old == nil || old.typ == tflush {
		return nil
	}
	serial := old.serial
	s.flushers++
	defer func() { s.flushers-- }()
	for s.calls[tag] == old && old.serial == serial {
		s.finished.Wait()
	}
	return nil
}

func (s *Session) clunk(_ *Call, d *decoder) error {
	id := d.u32()
	if d.bad {
		return unix.EINVAL
	}
	f, err := s.forget(id)
	if err != nil {
		return err
	}
	defer s.put(f)
	if x := f.xattr.Load(); x != nil && x.create {
		return s.setXattr(f, x)
	}
	return nil
}

// remove clunks the fid, which the protocol asks for even when removing fails.
func (s *Session) remove(c *Call, d *decoder) error {
	if err := s.clunk(c, d); err != nil {
		return err
	}
	return unix.EOPNOTSUPP
}

// get returns the fid with a reference that put drops.
func (s *Session) get(id uint32) (*fid, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.fids[id]
	if f == nil {
		return nil, unix.EBADF
	}
	f.refs++
	return f, nil
}

// put drops a reference to f, and with the last one closes what f has open.
func (s *Session) put(f *fid) {
	s.mu.Lock()
	f.refs--
	if f.refs > 0 {
		s.mu.Unlock()
		return
	}
	s.unref(f.node)
	file := f.file.Load()
	if file != nil {
		s.opens--
		s.share.pool.give()
		s.locks -= len(file.held) // nobody locks any more
	}
	if x := f.xattr.Load(); x != nil {
		s.xattrs -= x.size
	}
	s.mu.Unlock()
	if file != nil {
		s.closeFile(f.node, file)
	}
}

// install makes f the fid called id, in the place of old, which may be nil. It takes over the
// caller's reference to f's node and what f has open, also when it fails.
func (s *Session) install(id uint32, f *fid, old *fid) error {
	s.mu.Lock()
	f.refs = 1
	if s.fids[id] != old || id == noFID {
		s.mu.Unlock()
		s.put(f)
		return unix.EBADF
	}
	if old == nil && len(s.fids) >= s.share.limits.Nodes {
		s.mu.Unlock()
		s.put(f)
		return unix.EMFILE
	}
	s.fids[id] = f
	s.mu.Unlock()
	if old != nil {
		s.put(old)
	}
	return nil
}

// forget takes the fid out of the table. The caller drops the table's reference.
func (s *Session) forget(id uint32) (*fid, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.fids[id]
	if f == nil {
		return nil, unix.EBADF
	}
	delete(s.fids, id)
	return f, nil
}

func (s *Session) clunkAll() {
	s.mu.Lock()
	fids := s.fids
	s.fids = make(map[uint32]*fid)
	s.mu.Unlock()
	for _, f := range fids {
		s.put(f)
	}
}

// closeFile closes a file that is not counted any more.
func (s *Session) closeFile(n *node, file *openFile) {
	if file.fd >= 0 {
		unix.Close(file.fd) // errors of writing have been told by Twrite and Tfsync
	}
	s.unpin(n)
}

// reserve counts one more open file. The count is given back by put, or by unreserve when
// opening fails.
func (s *Session) reserve() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opens >= s.share.limits.Open {
		return unix.EMFILE
	}
	if err := s.share.pool.take(); err != nil {
		return err
	}
	s.opens++
	return nil
}

func (s *Session) unreserve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opens--
	s.share.pool.give()
}

// fileOffset checks an offset that a guest names.
func fileOffset(off uint64) (int64, error) {
	if off > math.MaxInt64 {
		return 0, unix.EINVAL
	}
	return int64(off), nil
}
