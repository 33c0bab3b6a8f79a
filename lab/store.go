package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tempPrefix starts the name of a folder that is being built or removed.
	tempPrefix = "tmp-"
	lockName   = "lock"
	// emptyName is an empty folder, for a share that has nothing behind it.
	emptyName = "empty"
	// keepStates is how many states are left after one was built; a state has 100 to 250 MB.
	keepStates = 12
)

// Store is the folder of saved states.
//
//	lock        held while a state is built or removed
//	<key>/      one state: ram.img, state, state.json
//	empty/      nothing
//	tmp-*/      a state being built, or removed: stale when nobody holds the lock
//
// A state appears by rename, whole, and is not changed afterwards. Any number of
// processes may use one Store at a time.
type Store struct{ dir string }

// OpenStore opens the store in dir, and makes the folder when it is not there.
func OpenStore(dir string) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(dir, emptyName), 0o700); err != nil {
		return nil, fmt.Errorf("open the lab's cache: %w: name another folder in %s", err, envCache)
	}
	return &Store{dir: dir}, nil
}

// State is one saved state, for lists.
type State struct {
	Key  string    `json:"key"`
	Path string    `json:"path"`
	Disk int64     `json:"disk"` // bytes allocated on disk
	Used time.Time `json:"used"` // when it was last resumed
	// InUse says that a run is just starting from it.
	InUse bool `json:"in_use"`
	// Damage says why it can't be used, "" when it can.
	Damage string `json:"damage,omitempty"`
	Meta   Meta   `json:"meta"`
}

// empty returns the path of the empty folder.
func (s *Store) empty() string { return filepath.Join(s.dir, emptyName) }

// List returns the states, the most recently used first.
func (s *Store) List() ([]State, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list the lab's states: %w", err)
	}
	var states []State
	for _, e := range entries {
		if !e.IsDir() || e.Name() == emptyName || strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		if state, err := s.describe(e.Name()); err == nil {
			states = append(states, state)
		}
	}
	slices.SortFunc(states, func(a, b State) int {
		return cmp.Or(b.Used.Compare(a.Used), cmp.Compare(a.Key, b.Key))
	})
	return states, nil
}

// describe fails when the state was removed meanwhile.
func (s *Store) describe(key string) (State, error) {
	dir := filepath.Join(s.dir, key)
	state := State{Key: key, Path: dir}
	info, err := os.Stat(dir)
	if err != nil {
		return State{}, err
	}
	state.Used = info.ModTime()
	if state.Disk, err = allocated(dir); err != nil {
		return State{}, err
	}
	if lock, err := lockNow(dir, unix.LOCK_EX); err == nil {
		lock.Close()
	} else {
		state.InUse = errors.Is(err, unix.EWOULDBLOCK)
	}
	st, err := loadState(dir, key)
	if err != nil {
		state.Damage = err.Error()
		return state, nil
	}
	state.Meta = st.meta
	return state, st.Close()
}

// Prune removes states beyond the keep most recently used ones, and what killed
// runs have left. States in use stay. It returns the bytes freed.
func (s *Store) Prune(ctx context.Context, keep int) (freed int64, err error) {
	lock, err := s.lock(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	return s.prune(keep, "")
}

// Remove removes the state key, unless a run is just starting from it.
func (s *Store) Remove(ctx context.Context, key string) error {
	lock, err := s.lock(ctx, nil)
	if err != nil {
		return err
	}
	defer lock.Close()
	states, err := s.List()
	if err != nil {
		return err
	}
	for _, state := range states {
		switch {
		case state.Key != key:
		case state.InUse:
			return fmt.Errorf("the lab's state %s is in use", key)
		default:
			return s.remove(key)
		}
	}
	return fmt.Errorf("the lab has no state %q", key)
}

// prune is Prune with the lock held; the state key stays in any case.
func (s *Store) prune(keep int, key string) (freed int64, err error) {
	freed = s.sweep()
	states, err := s.List()
	if err != nil {
		return freed, err
	}
	var errs []error
	for i, state := range states {
		if i < keep || state.InUse || state.Key == key {
			continue
		}
		if err := s.remove(state.Key); err != nil {
			errs = append(errs, err)
			continue
		}
		freed += state.Disk
	}
	return freed, errors.Join(errs...)
}

// sweep removes what killed builds have left. The lock is held: no build is alive.
func (s *Store) sweep() (freed int64) {
	stale, _ := filepath.Glob(filepath.Join(s.dir, tempPrefix+"*"))
	for _, dir := range stale {
		size, _ := allocated(dir)
		if os.RemoveAll(dir) == nil {
			freed += size
		}
	}
	return freed
}

// remove takes a state away: first its name, so that nobody meets half of it.
func (s *Store) remove(key string) error {
	away, err := s.tempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(away)
	err = os.Rename(filepath.Join(s.dir, key), filepath.Join(away, key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the lab's state %s: %w", key, err)
	}
	return nil
}

// tempDir makes a folder for a state to come. The lock is held.
func (s *Store) tempDir() (string, error) {
	dir, err := os.MkdirTemp(s.dir, tempPrefix)
	if err != nil {
		return "", fmt.Errorf("write to the lab's cache: %w", err)
	}
	return dir, nil
}

// publish gives a complete state its name, in place of what had it. The lock is held.
func (s *Store) publish(dir, key string) error {
	if err := s.remove(key); err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(s.dir, key)); err != nil {
		return fmt.Errorf("keep the lab's state: %w", err)
	}
	return nil
}

// load returns the state key. See loadState.
func (s *Store) load(key string) (*saved, error) {
	st, err := loadState(filepath.Join(s.dir, key), key)
	if err != nil {
		return nil, err
	}
	// Prune goes by the time. A cache that can't be written to has none to keep.
	now := time.Now()
	_ = os.Chtimes(st.dir, now, now)
	return st, nil
}

// lock takes the store's lock, waiting for the build or removal that has it. waiting,
// if not nil, is called once when there is one.
func (s *Store) lock(ctx context.Context, waiting func()) (*os.File, error) {
	path := filepath.Join(s.dir, lockName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write to the lab's cache: %w", err)
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if waiting != nil {
		waiting()
	}
	locked := make(chan error, 1)
	go func() { locked <- flock(f, unix.LOCK_EX) }()
	select {
	case err := <-locked:
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return f, nil
	case <-ctx.Done():
		go func() { // can't be called off: gives the lock back when it comes
			<-locked
			f.Close()
		}()
		return nil, context.Cause(ctx)
	}
}

// lockNow locks a file or folder without waiting.
func lockNow(path string, how int) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := flock(f, how|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			return err
		}
	}
}

// allocated returns the bytes that the files in dir occupy on disk.
func allocated(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, e := range entries {
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(dir, e.Name()), &st) == nil {
			sum += st.Blocks * 512
		}
	}
	return sum, nil
}
