package agent

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// softFiles and hardFiles are the commands' limits of open files, as systemd has them: some programs (select(2)) take no more than
	// the soft one, and those that need more raise it.
	softFiles = 1024
	hardFiles = 512 << 10
)

// raiseFiles gives this process, and the commands that it starts, the limit hardFiles, as far as it may.
func raiseFiles() error {
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: hardFiles, Max: hardFiles})
}

// withSoftFiles runs fork with the soft limit of open files that a command is to have. Descriptors that are open stay so.
func withSoftFiles(fork func() (int, error)) (int, error) {
	var own unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &own) != nil || own.Cur <= softFiles {
		return fork()
	}
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: softFiles, Max: own.Max})
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &own)
	return fork()
}

// withUmask runs fork on a thread that has the file mode creation mask alone, and that ends then.
func withUmask(mask uint32, fork func() (int, error)) (pid int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread is not used any more
		if err = unix.Unshare(unix.CLONE_FS); err == nil {
			syscall.Umask(int(mask))
			pid, err = fork()
		}
	}()
	<-done
	return pid, err
}

// give makes a user the owner of the command's pipes and terminal, so that /dev/stdout can be opened by its name.
func (s *stdio) give(uid, gid uint32) {
	for _, f := range s.child {
		var st unix.Stat_t
		if f == nil || unix.Fstat(int(f.Fd()), &st) != nil {
			continue
		}
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFIFO:
			_ = unix.Fchown(int(f.Fd()), int(uid), int(gid))
		case s.tty != nil:
			_ = unix.Fchown(int(f.Fd()), int(uid), -1)
		}
	}
}

// hostsFile is what resolves names without a network.
const hostsFile = "etc/hosts"

// nameHost has the machine's own name resolve, in the root's hosts file. A root that can't be written keeps its own idea.
func nameHost(root, name string) error {
	path := filepath.Join(root, hostsFile)
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		for i, field := range fields {
			if i > 0 && field == name {
				return nil
			}
		}
	}
	if len(text) == 0 {
		text = []byte("127.0.0.1\tlocalhost\n::1\tlocalhost\n")
	} else if text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// Another file in its place: it may be a link into a store that can't be written.
	next := path + ".stile"
	if err := os.WriteFile(next, append(text, "127.0.1.1\t"+name+"\n"...), 0o644); err != nil {
		return err
	}
	return os.Rename(next, path)
}
