package lab

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/limit"
)

// stateFormat is part of every key: a change of the files below makes new states.
const stateFormat = 1

// The files of a saved state.
const (
	ramFile    = "ram.img"    // L1's memory, sparse
	streamFile = "state"      // QEMU's migration stream without memory
	metaFile   = "state.json" // see Meta; written last
)

// maxStream bounds the migration stream, in bytes. It has 400 kB.
const maxStream = 64 << 20

// Meta describes a saved state.
type Meta struct {
	Format int    `json:"format"`
	Key    string `json:"key"`
	// ID is random, to tell a state from the one that took its place.
	ID      string    `json:"id"`
	Created time.Time `json:"created"`

	// For people.
	QEMU     string  `json:"qemu"`
	Mem      int64   `json:"mem"` // bytes
	CPUs     int     `json:"cpus"`
	BootTime float64 `json:"boot_seconds"`
	Topology string  `json:"topology"`
	Kernel   string  `json:"kernel"` // path

	// NoSandbox says that this QEMU was built without its sandbox.
	NoSandbox bool `json:"no_sandbox,omitempty"`
	// Agent is the sha256 of the saved agent's binary, in hex.
	Agent string `json:"agent"`

	// How the files are recognised. Memory is too big to be read at each resume: its size and time must do,
	// they tell a copy, a restored backup and a stray write.
	StreamHash string    `json:"stream_sha256"`
	StreamSize int64     `json:"stream_size"`
	RAMTime    time.Time `json:"ram_mtime"`
}

// errDamaged is in every error about a state that is there and can't be used.
var errDamaged = errors.New("the lab's saved state is damaged")

// saved is a state that was checked, ready to be resumed. Its owner closes it.
type saved struct {
	dir    string
	meta   Meta
	stream []byte
	lock   *os.File // the folder, locked shared
}

// loadState checks the state in dir and reads its stream. The error is fs.ErrNotExist where
// no state exists, errDamaged where it is damaged or was made for another key, a limit.Error where it can't be read here.
func loadState(dir, key string) (*saved, error) {
	lock, err := os.Open(dir)
	if err != nil {
		return nil, limit.Explain(err)
	}
	// Keeps Prune away. A file system without locks does without.
	_ = unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	s := &saved{dir: dir, lock: lock}
	if err := s.load(key); err != nil {
		lock.Close()
		if err = limit.Explain(err); errors.As(err, new(*limit.Error)) {
			return nil, fmt.Errorf("read the lab's saved state %s: %w", dir, err)
		}
		return nil, fmt.Errorf("%w: %s: %w", errDamaged, dir, err)
	}
	return s, nil
}

// Close gives the state up. A QEMU that has started doesn't need it any more.
func (s *saved) Close() error { return s.lock.Close() }

func (s *saved) load(key string) error {
	if err := s.loadMeta(key); err != nil {
		return err
	}
	ram, err := os.Stat(filepath.Join(s.dir, ramFile))
	if err != nil {
		return err
	}
	if !ram.Mode().IsRegular() || ram.Size() != s.meta.Mem || !ram.ModTime().Equal(s.meta.RAMTime) {
		return fmt.Errorf("%s has %d bytes from %v, saved were %d from %v",
			ramFile, ram.Size(), ram.ModTime(), s.meta.Mem, s.meta.RAMTime)
	}
	if s.stream, err = readBounded(filepath.Join(s.dir, streamFile), maxStream); err != nil {
		return err
	}
	if got := hashOf(s.stream); got != s.meta.StreamHash {
		return fmt.Errorf("%s has %d bytes with sha256 %s, saved were %d with %s",
			streamFile, len(s.stream), got, s.meta.StreamSize, s.meta.StreamHash)
	}
	return nil
}

func (s *saved) loadMeta(key string) error {
	data, err := readBounded(filepath.Join(s.dir, metaFile), 64<<10)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&s.meta); err != nil {
		return fmt.Errorf("%s: %w", metaFile, err)
	}
	if s.meta.Format != stateFormat || s.meta.Key != key {
		return fmt.Errorf("%s: format %d and key %q, want %d and %q", metaFile, s.meta.Format, s.meta.Key, stateFormat, key)
	}
	return nil
}

// writeState completes the state in dir: the stream, then what describes it. ram.img is there.
func writeState(dir string, meta Meta, stream []byte) error {
	ram, err := os.OpenFile(filepath.Join(dir, ramFile), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer ram.Close()
	if err := digHoles(ram); err != nil {
		return err
	}
	// A crash of the host after the rename must not leave a hole where memory was.
	if err := ram.Sync(); err != nil {
		return err
	}
	info, err := ram.Stat()
	if err != nil {
		return err
	}
	meta.Format, meta.ID = stateFormat, rand.Text()
	meta.RAMTime = info.ModTime()
	meta.StreamSize, meta.StreamHash = int64(len(stream)), hashOf(stream)
	if err := writeSynced(filepath.Join(dir, streamFile), stream); err != nil {
		return err
	}
	data, err := json.MarshalIndent(&meta, "", "\t")
	if err != nil {
		return err
	}
	return writeSynced(filepath.Join(dir, metaFile), append(data, '\n'))
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("not a regular file of at most %d bytes", limit)}
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
