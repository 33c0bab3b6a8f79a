package control

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// logPart bounds a log's file, in bytes. A log has two: when the second is full, it becomes the
	// first, so that what is kept is the end.
	logPart = 1 << 20
	// logsKept is how many VMs' logs are kept.
	logsKept = 32

	logSuffix  = ".log"
	partSuffix = ".1" // of the older file
)

// LogPath returns the path of a VM's log in dir.
func LogPath(dir, id string) string { return filepath.Join(dir, id+logSuffix) }

// Log writes what a view of a console sees to a file.
type Log struct {
	path string
	file *os.File
	size int64
	done chan struct{} // closed when the view has ended
	err  error
}

// NewLog makes the log of the VM id in dir, and removes the oldest logs there. It ends with the
// console, whose owner closes the log afterwards.
func NewLog(dir, id string, c *Console) (*Log, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of logs: %w", err)
	}
	prune(dir, logsKept-1)
	l := &Log{path: LogPath(dir, id), done: make(chan struct{})}
	if err := os.Remove(l.path + partSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := l.create(); err != nil {
		return nil, err
	}
	go func() {
		defer close(l.done)
		_, _ = io.Copy(l, struct{ io.Reader }{c.View()}) // Write does not fail
	}()
	return l, nil
}

// create begins the newer file.
func (l *Log) create() (err error) {
	l.size = 0
	l.file, err = os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	return err
}

// Path returns the log's path.
func (l *Log) Path() string { return l.path }

// Write adds to the log. A disk that is full costs the rest of the log and no more.
func (l *Log) Write(p []byte) (int, error) {
	if l.err == nil {
		l.err = l.write(p)
	}
	return len(p), nil
}

func (l *Log) write(p []byte) error {
	if l.size+int64(len(p)) > logPart {
		err := errors.Join(l.file.Close(), os.Rename(l.path, l.path+partSuffix), l.create())
		if err != nil {
			return err
		}
	}
	n, err := l.file.Write(p)
	l.size += int64(n)
	return err
}

// Close waits until all of the console is in the log, and closes it.
func (l *Log) Close() error {
	<-l.done
	if l.file != nil {
		l.err = errors.Join(l.err, l.file.Close())
	}
	return l.err
}

// ReadLog copies the log of the VM id to w, also after its end, and returns its length in bytes.
func ReadLog(dir, id string, w io.Writer) (size int64, err error) {
	if err := CheckID(id); err != nil {
		return 0, err
	}
	found := false
	for _, path := range []string{LogPath(dir, id) + partSuffix, LogPath(dir, id)} {
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return size, err
		}
		found = true
		n, err := io.Copy(w, f)
		f.Close()
		size += n
		if err != nil {
			return size, err
		}
	}
	if !found {
		return 0, fmt.Errorf("no log of a VM %q: those of the last %d VMs are kept", id, logsKept)
	}
	return size, nil
}

// FindLog returns the ID that begins with prefix among those of which there are logs; without a prefix, that of the VM
// that was started last.
func FindLog(dir, prefix string) (string, error) {
	list := Logs(dir)
	if prefix == "" && len(list) > 0 {
		return list[0], nil
	}
	id, err := match(list, prefix)
	var none *NoVMError
	if errors.As(err, &none) {
		err = fmt.Errorf("no log of a VM %q: those of the last %d VMs are kept", prefix, logsKept)
	}
	return id, err
}

// Logs returns the IDs of the VMs of which there are logs, the last one that wrote first.
func Logs(dir string) []string {
	type log struct {
		id   string
		time time.Time
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // there are none
	}
	var list []log
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), logSuffix)
		info, err := e.Info()
		if ok && err == nil && CheckID(id) == nil {
			list = append(list, log{id, info.ModTime()})
		}
	}
	slices.SortFunc(list, func(a, b log) int { return cmp.Or(b.time.Compare(a.time), strings.Compare(a.id, b.id)) })
	ids := make([]string, len(list))
	for i, l := range list {
		ids[i] = l.id
	}
	return ids
}

// prune removes all but the latest logs.
func prune(dir string, keep int) {
	list := Logs(dir)
	for _, id := range list[min(keep, len(list)):] {
		os.Remove(LogPath(dir, id))
		os.Remove(LogPath(dir, id) + partSuffix)
	}
}
