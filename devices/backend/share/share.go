package share

import (
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/sys"
)

// MaxMessage is the largest message in bytes that a session agrees to. Linux's virtio transport
// asks for at most 500 KiB.
const MaxMessage = 512 << 10

// Config describes a share.
type Config struct {
	Path     string // the folder on the host; a symbolic link here is followed
	ReadOnly bool   // refuse all changes with EROFS
	// Owner's files are shown as root's, and owners and set-user-ID bits that the guest sets are shown to it until the
	// share ends and not given to the host's files. Nil shows owners as the host has them, and sets them if this
	// process is root.
	Owner  *Owner
	Limits Limits // zero fields have defaults
	// Pool bounds descriptors together with other shares of this process; nil for this one alone.
	Pool *Pool
}

// Limits bound what one session holds.
type Limits struct {
	// Nodes is the number of files that fids may refer to, and of fids. A Linux guest spends
	// about 2 KiB of its memory for each, stile 250 bytes. Default 262,144.
	Nodes int
	// Handles is the number of descriptors kept to name files. Default: an eighth of
	// RLIMIT_NOFILE, at most 4096.
	Handles int
	// Open is the number of files opened for reading or writing, each of which takes two descriptors. Default: three
	// eighths of RLIMIT_NOFILE, at most 65,536.
	Open int
}

// Share is a folder that can be served. All methods may be called concurrently.
type Share struct {
	readOnly   bool
	limits     Limits
	pool       *Pool   // nil without
	root       *sys.FD // O_PATH
	proc       *sys.FD // O_PATH, /proc/self/fd
	rootID     fileID
	resolver   resolver
	privileged bool // may give files to other users
	root0      bool // this process is root, whose writes leave set-user-ID bits alone
	remote     bool // the folder is one of 9P
	owners     owners
	makeNode   func(dirfd int, name string, mode uint32, dev int) error // mknodat(2)
	seed       maphash.Seed

	mu      sync.RWMutex
	devices map[uint64]device
}

// New opens the folder. The caller must Close it after all of its sessions.
func New(cfg Config) (_ *Share, err error) {
	s := &Share{
		readOnly:   cfg.ReadOnly,
		limits:     cfg.Limits,
		pool:       cfg.Pool,
		privileged: os.Geteuid() == 0 && cfg.Owner == nil,
		root0:      os.Geteuid() == 0,
		makeNode:   unix.Mknodat,
		seed:       maphash.MakeSeed(),
		devices:    make(map[uint64]device),
	}
	if err := s.limits.complete(); err != nil {
		return nil, fmt.Errorf("share %s: %w", cfg.Path, err)
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	s.owners = owners{
		root: cfg.Owner, limit: s.limits.Nodes, kept: make(map[fileKey]kept),
		standIns: standIns{limit: s.limits.Nodes, kept: make(map[fileID]standIn)},
	}
	if s.proc, err = sys.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return nil, fmt.Errorf("share %s: procfs must be mounted on /proc: %w", cfg.Path, err)
	}
	if s.root, err = sys.Open(cfg.Path, unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return nil, fmt.Errorf("share: %w", err)
	}
	s.resolver = probeResolver(s.root.Int())
	if err := s.addRoot(); err != nil {
		return nil, fmt.Errorf("share %s: %w", cfg.Path, err)
	}
	return s, nil
}

// Check reports why the folder cannot be shared.
func Check(path string) error {
	s, err := New(Config{Path: path})
	if err != nil {
		return err
	}
	return s.Close()
}

func (s *Share) addRoot() error {
	var st unix.Statx_t
	if err := statFD(s.root.Int(), &st); err != nil {
		return fmt.Errorf("statx: %w", err)
	}
	s.rootID = identify(&st)
	hidden, err := isKernelFS(s.root.Int())
	if err != nil {
		return fmt.Errorf("fstatfs: %w", err)
	}
	if s.remote, err = isRemote(s.root.Int()); err != nil {
		return fmt.Errorf("find its mount: %w", err)
	}
	if hidden {
		return errors.New("a file system of the kernel (procfs, sysfs, …) cannot be shared; mount it in the guest")
	}
	s.devices[s.rootID.dev] = device{}
	return nil
}

// ReadOnly reports whether changes are refused.
func (s *Share) ReadOnly() bool { return s.readOnly }

// Close closes the folder. Further calls do nothing.
func (s *Share) Close() error {
	var errs []error
	for _, fd := range []*sys.FD{s.root, s.proc} {
		if fd != nil {
			errs = append(errs, fd.Close())
		}
	}
	return errors.Join(errs...)
}

func (l *Limits) complete() error {
	if l.Nodes < 0 || l.Handles < 0 || l.Open < 0 {
		return fmt.Errorf("limits %+v: negative", *l)
	}
	var rlimit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &rlimit); err != nil {
		return fmt.Errorf("RLIMIT_NOFILE: %w", err)
	}
	files := int(min(rlimit.Cur, 1<<20))
	if l.Nodes == 0 {
		l.Nodes = 256 << 10
	}
	if l.Handles == 0 {
		l.Handles = max(min(files/8, 4096), 32)
	}
	if l.Open == 0 {
		l.Open = max(min(files*3/8, 64<<10), 32)
	}
	return nil
}
