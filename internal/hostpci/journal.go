package hostpci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	journalDir  = "/run/stile"
	journalFile = journalDir + "/bindings.json"
	lockFile    = journalDir + "/lock"
	// journalVersion changes when older stiles could misread the file.
	journalVersion = 1
)

// Owner is the process that a binding belongs to. Numbers of processes are used again,
// so the time of its start counts too.
type Owner struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, from /proc/PID/stat
}

// Phase is how far a change has come.
type Phase string

const (
	binding   Phase = "binding"
	bound     Phase = "bound"
	restoring Phase = "restoring"
)

// Entry remembers one function that was changed and how it was before.
type Entry struct {
	Address BDF `json:"address"`
	// Driver and Override are those to go back to; either can be "".
	Driver   string `json:"driver"`
	Override string `json:"driver_override"`
	// Target is the driver that it was given.
	Target string `json:"target"`
	Phase  Phase  `json:"phase"`
	// Keep tells that the binding outlives its owner: it was asked for by stile bind.
	Keep  bool  `json:"keep"`
	Owner Owner `json:"owner"`
}

// journal is what the file holds.
type journal struct {
	Version int     `json:"version"`
	BootID  string  `json:"boot_id"`
	Entries []Entry `json:"entries"`
}

func (j *journal) find(b BDF) *Entry {
	i := slices.IndexFunc(j.Entries, func(e Entry) bool { return e.Address == b })
	if i < 0 {
		return nil
	}
	return &j.Entries[i]
}

func (j *journal) remove(b BDF) {
	j.Entries = slices.DeleteFunc(j.Entries, func(e Entry) bool { return e.Address == b })
}

// bootID tells this boot from others; "" where the kernel does not say.
func (h *Host) bootID() string {
	id, _ := h.tree.text("/proc/sys/kernel/random/boot_id")
	return id
}

// readJournal reads the journal. Entries of another boot are dropped: drivers and
// overrides are as new after a boot.
func (h *Host) readJournal() (*journal, error) {
	boot := h.bootID()
	empty := &journal{Version: journalVersion, BootID: boot}
	text, err := h.tree.file(journalFile)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the journal of bindings: %w", err)
	}
	var j journal
	if err := json.Unmarshal(text, &j); err != nil {
		return nil, fmt.Errorf("the journal of bindings %s is damaged (%w); look which drivers are bound with stile devices, then remove it", journalFile, err)
	}
	if j.Version != journalVersion {
		return nil, fmt.Errorf("the journal of bindings %s is of version %d, which this stile does not know; use the stile that wrote it", journalFile, j.Version)
	}
	if j.BootID != boot {
		return empty, nil
	}
	return &j, nil
}

// writeJournal replaces the file whole, so that a process that is killed leaves either
// the old or the new one. Only the holder of the lock writes. Nothing is synced: what is
// lost with the machine's power is of another boot.
func (h *Host) writeJournal(j *journal) error {
	path := h.tree.path(journalFile)
	text, err := json.MarshalIndent(j, "", "  ")
	if err == nil {
		err = os.WriteFile(path+".new", append(text, '\n'), 0o644)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("write the journal of bindings: %w", err)
	}
	return nil
}

// lock excludes other stiles from the journal until the returned function is called. The
// kernel unlocks for a process that is killed.
func (h *Host) lock() (func(), error) {
	path := h.tree.path(lockFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make a place for the journal of bindings: %w%s", err, needsRoot(err))
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the journal of bindings: %w%s", err, needsRoot(err))
	}
	for deadline := time.Now().Add(h.lockPatience); ; time.Sleep(20 * time.Millisecond) {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			defer f.Close()
			return nil, h.lockError(f, err)
		}
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	return func() { f.Close() }, nil
}

// lockError names the process that wrote its number when it got the lock.
func (h *Host) lockError(f *os.File, err error) error {
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("lock the journal of bindings: %w", err)
	}
	buf := make([]byte, 16)
	n, _ := f.ReadAt(buf, 0)
	return fmt.Errorf("another stile (process %s) has been changing drivers for %v; wait for it, or see what it waits for", strings.TrimSpace(string(buf[:n])), h.lockPatience)
}

func needsRoot(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return " (changing drivers needs root)"
	}
	return ""
}

// self is this process as an owner.
func (h *Host) self() (Owner, error) {
	o, err := h.owner("self")
	if err != nil {
		return o, fmt.Errorf("find out when this process started: %w", err)
	}
	return o, nil
}

// owner reads number and start of a process (proc_pid_stat(5)). The command in the
// second field can hold anything, so fields are counted from its closing parenthesis.
func (h *Host) owner(pid string) (Owner, error) {
	text, err := h.tree.text("/proc/" + pid + "/stat")
	if err != nil {
		return Owner{}, err
	}
	number, _, _ := strings.Cut(text, " ")
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const start = 22 - 3 // of the fields after the command
	if len(fields) <= start {
		return Owner{}, fmt.Errorf("/proc/%s/stat is too short", pid)
	}
	id, err1 := strconv.Atoi(number)
	ticks, err2 := strconv.ParseUint(fields[start], 10, 64)
	return Owner{id, ticks}, errors.Join(err1, err2)
}

// alive tells whether the owner still runs.
func (h *Host) alive(o Owner) bool {
	now, err := h.owner(strconv.Itoa(o.PID))
	if err != nil {
		return !gone(err) && !errors.Is(err, unix.ESRCH) // can't be told: leave it alone
	}
	return now == o
}

// stale tells whether an entry was left by a process that can't finish it any more.
func (h *Host) stale(e Entry) bool {
	return !(e.Keep && e.Phase == bound) && !h.alive(e.Owner)
}

// ownedByOther tells whether a binding belongs to another process that still runs.
func (h *Host) ownedByOther(e Entry) bool {
	if e.Keep && e.Phase == bound || !h.alive(e.Owner) {
		return false
	}
	own, err := h.self()
	return err != nil || own != e.Owner
}
