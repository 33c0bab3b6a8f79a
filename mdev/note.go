package mdev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/hostpci"
)

// notesDir holds a file for each function that is being wrapped or unwrapped.
const notesDir = "/run/stile/mdev"

// note says what undoes a change that is under way: a wrap from its beginning, an unwrap
// to its end. It comes before the first change and is gone after the last. Its file is
// locked as long as the process lives; one that is not locked was left by a killed process.
//
// Which driver the function goes back to is in the journal of package hostpci.
type note struct {
	// Devices are the mediated devices to be removed, those that are there.
	Devices []string `json:"devices"`
	// Bound tells that the function is to be given back.
	Bound bool `json:"bound"`
}

// noteFile is a note and its lock.
type noteFile struct {
	file *os.File
	path string
}

var errBusyNote = errors.New("another stile is wrapping or unwrapping it")

// takeNote opens and locks a function's note, which is empty if it is new.
func (h *Host) takeNote(b hostpci.BDF, flags int) (*noteFile, error) {
	path := h.path(notesDir + "/" + b.String())
	for {
		f, err := os.OpenFile(path, os.O_RDWR|flags, 0o644)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				err = errBusyNote
			}
			return nil, err
		}
		if sameFile(f, path) {
			return &noteFile{f, path}, nil
		}
		f.Close() // its process ended meanwhile and has removed it
	}
}

func sameFile(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// begin notes a change of a function before it is made.
func (h *Host) begin(b hostpci.BDF, n note) (*noteFile, error) {
	if err := os.MkdirAll(h.path(notesDir), 0o755); err != nil {
		return nil, fmt.Errorf("make a place for notes: %s", common(err))
	}
	f, err := h.takeNote(b, os.O_CREATE)
	if err != nil {
		return nil, fmt.Errorf("%v: %s", b, common(err))
	}
	if old, err := f.read(); err == nil && old != nil {
		f.abandon()
		return nil, fmt.Errorf("%v is half wrapped: a stile was killed, and what it left can't be undone yet", b)
	}
	text, err := json.Marshal(n)
	if err == nil {
		_, err = f.file.WriteAt(text, 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("note that %v is changed: %w", b, err), f.end())
	}
	return f, nil
}

// read returns the note; nil if its process was killed before it had written it, and
// so before it had changed anything.
func (f *noteFile) read() (*note, error) {
	text, err := io.ReadAll(io.NewSectionReader(f.file, 0, 1<<16))
	if err != nil || len(text) == 0 {
		return nil, err
	}
	var n note
	if err := json.Unmarshal(text, &n); err != nil {
		return nil, nil // cut short: not written whole, so nothing was changed
	}
	return &n, nil
}

// end removes the note: there is nothing to undo any more.
func (f *noteFile) end() error { return errors.Join(os.Remove(f.path), f.file.Close()) }

// abandon leaves the note to be undone by a later call of Recover.
func (f *noteFile) abandon() { f.file.Close() }

// Recover undoes what killed processes have left half wrapped or half unwrapped. Each
// function is tried, also after one has failed. notice, which may be nil, is told what
// was done.
func (h *Host) Recover(notice func(string)) error {
	if notice == nil {
		notice = func(string) {}
	}
	names, err := h.names(notesDir)
	faults := []error{err}
	for _, name := range names {
		b, err := hostpci.ParseBDF(name)
		if err != nil {
			continue
		}
		if err := h.recover(b, notice); err != nil {
			faults = append(faults, fmt.Errorf("undo what a killed stile left of %v: %w", b, err))
		}
	}
	return errors.Join(faults...)
}

func (h *Host) recover(b hostpci.BDF, notice func(string)) error {
	f, err := h.takeNote(b, 0)
	if errors.Is(err, errBusyNote) || errors.Is(err, os.ErrNotExist) {
		return nil // its process lives, or has just ended well
	}
	if err != nil {
		return errors.New(common(err))
	}
	n, err := f.read()
	if err == nil && n != nil {
		err = h.undo(b, *n, notice)
	}
	if err != nil {
		f.abandon()
		return err
	}
	if n != nil {
		notice(fmt.Sprintf("%v is unwrapped: the stile that was wrapping or unwrapping it was killed", b))
	}
	return f.end()
}

// undo makes a function as it was before it was wrapped, from whatever state it is in.
func (h *Host) undo(b hostpci.BDF, n note, notice func(string)) error {
	s, err := h.pci.Scan()
	if err != nil {
		return err
	}
	if s.Function(b) == nil {
		return nil // unplugged, and its devices with it
	}
	for _, m := range children(s, b) {
		if !slices.Contains(n.Devices, m.UUID) {
			continue
		}
		if err := free(s, m); err != nil {
			return err
		}
		if err := h.remove(m.UUID, nil, notice); err != nil {
			return err
		}
	}
	if !n.Bound {
		return nil
	}
	e, err := h.binding(b)
	if err != nil || e == nil {
		return err
	}
	_, err = h.pci.Unbind([]hostpci.BDF{b}, hostpci.UnbindOptions{Notice: notice})
	return err
}

// binding returns the journal's entry of a function that was given to the module.
func (h *Host) binding(b hostpci.BDF) (*hostpci.Entry, error) {
	entries, err := h.pci.Bindings()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Address == b && e.Target == hostpci.DonorDriver {
			return &e, nil
		}
	}
	return nil, nil
}

// Stale returns the functions that killed processes have left half wrapped or half
// unwrapped. It changes nothing.
func (h *Host) Stale() []hostpci.BDF {
	names, _ := h.names(notesDir)
	list := []hostpci.BDF{}
	for _, name := range names {
		b, err := hostpci.ParseBDF(filepath.Base(name))
		if err == nil && !h.noteLocked(b) {
			list = append(list, b)
		}
	}
	return list
}

// noteLocked tells whether the process of a note lives. The lock is shared, so that one
// who only looks needs no right to write.
func (h *Host) noteLocked(b hostpci.BDF) bool {
	f, err := os.Open(h.path(notesDir + "/" + b.String()))
	if err != nil {
		return true // it has just ended
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}
