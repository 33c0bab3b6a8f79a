package agent

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// children are the commands that run. It owns every wait: PID 1 has to reap processes
// that it did not start, with wait4(-1), and that must not take away a command's status.
// So os/exec, which waits by itself, is not used.
type children struct {
	// reapOne says that each child is waited for by number, because this process has
	// other children that are not ours to reap.
	reapOne bool

	mu    sync.Mutex // held over fork and over reap: no child ends before it is in the table
	table map[int]*child
}

// child is one command. Its PID is its process group and session, too.
type child struct {
	pid    int
	parent *children
	exited chan syscall.WaitStatus // gets one value
}

// newChildren returns the children of an ordinary process.
func newChildren() *children {
	return &children{reapOne: true, table: make(map[int]*child)}
}

// newInitChildren returns the children of PID 1, or of a subreaper, and starts to reap for the life of the process.
func newInitChildren() *children {
	c := &children{table: make(map[int]*child)}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	go func() {
		c.reap(-1, unix.WNOHANG) // orphans of before
		for range ended {
			c.reap(-1, unix.WNOHANG)
		}
	}()
	return c
}

// start runs fork and takes the child over.
func (c *children) start(fork func() (int, error)) (*child, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := fork()
	if err != nil {
		return nil, err
	}
	k := &child{pid: pid, parent: c, exited: make(chan syscall.WaitStatus, 1)}
	c.table[pid] = k
	if c.reapOne {
		go func() {
			// Without reaping: the number stays taken until reap holds the lock.
			var info unix.Siginfo
			for unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
			}
			c.reap(pid, unix.WNOHANG)
		}()
	}
	return k, nil
}

// reap collects ended processes until there is none left, and hands out the status of those in the table.
func (c *children) reap(pid, options int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(pid, &status, options, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || got <= 0 {
			return
		}
		if k := c.table[got]; k != nil {
			delete(c.table, got)
			k.exited <- status
		}
	}
}

// signal sends sig to the child's process group. A child that has been reaped gets none:
// its number may be another's by now.
func (k *child) signal(sig syscall.Signal) {
	k.parent.mu.Lock()
	defer k.parent.mu.Unlock()
	if k.parent.table[k.pid] != k {
		return
	}
	if syscall.Kill(-k.pid, sig) != nil {
		syscall.Kill(k.pid, sig) // it has left its group
	}
}
