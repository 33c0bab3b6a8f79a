package share

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Owner is the user and the group of the host whom the guest's root stands for.
type Owner struct{ UID, GID uint32 }

// special are the mode bits that no file of the host gets from a guest: a guest must not leave behind programs that run
// as stile's user.
const special = unix.S_ISUID | unix.S_ISGID

// owners is what the guest is told of files' owners and modes where that is not what the host has: the Owner is root,
// and what the guest has set is shown to it until the share ends, though the host's file stays the Owner's. Without
// an Owner that is true of the special bits only.
type owners struct {
	root  *Owner
	limit int // files

	n    atomic.Int64 // len(kept), to be read without mu
	mu   sync.RWMutex
	kept map[fileKey]kept

	standIns standIns
}

// fileKey tells a file from a later one with the same inode number, where the file system knows when a file was made.
type fileKey struct {
	fileID
	born unix.StatxTimestamp
}

// kept are the attributes that the guest has set and the host's file has not.
type kept struct {
	uid, gid uint32
	owned    bool // uid and gid count
	bits     uint16
}

func keyOf(st *unix.Statx_t) fileKey { return fileKey{identify(st), st.Btime} }

// show turns the host's attributes into the guest's.
func (o *owners) show(st *unix.Statx_t) {
	k := o.get(st)
	if o.root != nil {
		o.root.show(st)
	}
	if k.owned {
		st.Uid, st.Gid = k.uid, k.gid
	}
	st.Mode |= k.bits
	o.standIns.show(st)
}

func (o *owners) get(st *unix.Statx_t) kept {
	if o.n.Load() == 0 {
		return kept{}
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.kept[keyOf(st)]
}

// set changes what is kept for the file whose attributes on the host are in st.
func (o *owners) set(st *unix.Statx_t, change func(*kept)) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := keyOf(st)
	old, was := o.kept[key]
	k := old
	change(&k)
	switch {
	case k == kept{}:
		delete(o.kept, key)
	case !was && len(o.kept) >= o.limit:
		return unix.ENOSPC
	default:
		o.kept[key] = k
	}
	o.n.Store(int64(len(o.kept)))
	return nil
}

// chown keeps an owner. Only files of o.root have one to give away, as the host would have it; an ID of -1 stays.
func (o *owners) chown(st *unix.Statx_t, uid, gid int) error {
	if st.Uid != o.root.UID {
		return unix.EPERM
	}
	return o.set(st, func(k *kept) {
		if !k.owned {
			shown := *st
			o.root.show(&shown)
			k.uid, k.gid = shown.Uid, shown.Gid
		}
		if uid >= 0 {
			k.uid = uint32(uid)
		}
		if gid >= 0 {
			k.gid = uint32(gid)
		}
		k.owned = k.uid != 0 || k.gid != 0
		if !k.owned {
			k.uid, k.gid = 0, 0
		}
	})
}

// chmod keeps the special bits of mode.
func (o *owners) chmod(st *unix.Statx_t, mode uint32) error {
	bits := uint16(mode & special)
	if bits == 0 && o.n.Load() == 0 {
		return nil
	}
	return o.set(st, func(k *kept) { k.bits = bits })
}

// mayEnd returns what to forget when a name is taken away from its file: ok where that is the last one.
func (o *owners) mayEnd(dirfd int, name string) (key fileKey, ok bool) {
	if o.n.Load() == 0 && o.standIns.n.Load() == 0 {
		return fileKey{}, false
	}
	var st unix.Statx_t
	if err := statAt(dirfd, append([]byte(name), 0), &st); err != nil {
		return fileKey{}, false
	}
	return keyOf(&st), st.Nlink == 1 || fileType(&st) == unix.S_IFDIR
}

func (o *owners) forget(key fileKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.kept, key)
	o.n.Store(int64(len(o.kept)))
	o.standIns.forget(key.fileID)
}

func (r *Owner) show(st *unix.Statx_t) {
	if st.Uid == r.UID {
		st.Uid = 0
	}
	if st.Gid == r.GID {
		st.Gid = 0
	}
}
