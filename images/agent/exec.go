package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// exec runs a command from start to end on its control stream.
func (s *server) exec(control *yamux.Stream, e *agentproto.Exec) {
	streams := make(map[agentproto.Stream]*yamux.Stream)
	defer func() {
		for _, stream := range streams {
			stream.SetDeadline(past())
			stream.Close()
		}
	}()
	for _, name := range e.Streams {
		stream, err := s.claim(e.ID, name)
		if err != nil {
			refuse(control, agentproto.Failed, err)
			return
		}
		streams[name] = stream
	}
	files, err := openStdio(streams, e.TTY)
	if err != nil {
		refuse(control, agentproto.Failed, fmt.Errorf("open the standard streams: %w", err))
		return
	}
	command, err := s.start(e, files)
	files.closeChildEnds()
	if err != nil {
		files.abandon()
		s.hold()
		refuse(control, agentproto.Failed, err)
		return
	}
	agentproto.WriteMessage(control, agentproto.MaxReply, &agentproto.Reply{Started: &agentproto.Started{PID: command.pid}})
	files.run(s.machine.catch)
	go func() {
		defer s.machine.catch()
		obey(control, command, files)
	}()
	status := <-command.exited
	s.hold()
	var mu sync.Mutex // of the control stream, where the end may be told twice
	exit := exitOf(status)
	if files.input != nil {
		exit.Read = files.input.finish()
	}
	// A host whose reader stands still is to know of the end all the same.
	pending := time.AfterFunc(pendingTime, func() {
		defer s.machine.catch()
		early := *exit
		early.Pending = true
		mu.Lock()
		defer mu.Unlock()
		agentproto.WriteMessage(control, agentproto.MaxReply, &agentproto.Reply{Exit: &early})
	})
	files.finish()
	pending.Stop()
	mu.Lock()
	defer mu.Unlock()
	agentproto.WriteMessage(control, agentproto.MaxReply, &agentproto.Reply{Exit: exit})
}

// pendingTime is how long the host may take for the rest of a command's output until it is told of the command's end.
const pendingTime = 200 * time.Millisecond

// opExec is what package os calls the start of a program.
const opExec = "fork/exec"

// ownProgram is this program, as the child that is to become it sees it.
const ownProgram = "/proc/self/exe"

// start forks the command, as the leader of a session and process group of its own. No
// parent-death signal is set: that is bound to the thread that forks, which the Go runtime may end at any time.
func (s *server) start(e *agentproto.Exec, files *stdio) (*child, error) {
	s.mu.Lock()
	env := s.env
	s.mu.Unlock()
	dir := e.Dir
	if dir == "" {
		dir = "/"
	} else {
		env = mergeEnv(env, []string{"PWD=" + dir}) // as it was typed, with its symbolic links
	}
	env = mergeEnv(env, e.Env)
	if err := checkDir(dir); err != nil {
		return nil, fmt.Errorf("working directory: %w", err)
	}
	path, err := ownProgram, error(nil)
	if name := e.Program(); name != agentproto.Packer {
		path, err = lookPath(name, getEnv(env, "PATH"), dir)
	}
	if err != nil {
		return nil, err
	}
	attr := &syscall.ProcAttr{
		Dir: dir, Env: env, Files: files.childFiles(),
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: e.TTY != nil, Ctty: 0},
	}
	if u := e.User; u != nil {
		attr.Sys.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
		files.give(u.UID, u.GID)
	}
	fork := func() (int, error) { return syscall.ForkExec(path, arguments(path, e.Args), attr) }
	if e.Umask != nil {
		bare := fork
		fork = func() (int, error) { return withUmask(*e.Umask, bare) }
	}
	command, err := s.children.start(func() (int, error) { return withSoftFiles(fork) })
	if err != nil {
		return nil, execError(path, err)
	}
	return command, nil
}

// checkDir says of a working directory what package os would.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return &fs.PathError{Op: "chdir", Path: dir, Err: path.Err}
	}
	if err == nil && !info.IsDir() {
		return &fs.PathError{Op: opExec, Path: dir, Err: syscall.ENOTDIR}
	}
	return err
}

// execError says why a file that is there and executable could not be executed.
func execError(path string, err error) error {
	refusal := func(reason string) error {
		e := &agentproto.Error{Kind: agentproto.NotExecutable, Message: path + ": " + reason, Op: opExec, Path: path}
		errors.As(err, &e.Errno)
		return e
	}
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return refusal("neither a program for this kernel nor a script with a #! line")
	case errors.Is(err, syscall.ENOENT):
		return refusal("the interpreter or dynamic loader that it names is missing in the guest")
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.E2BIG),
		errors.Is(err, syscall.ELIBBAD), errors.Is(err, syscall.EISDIR):
		return refusal(err.Error())
	}
	return &fs.PathError{Op: opExec, Path: path, Err: err}
}

// obey does what the host says about a running command. When the host closes the
// stream it has given the command up, which is killed.
func obey(control *yamux.Stream, command *child, files *stdio) {
	for {
		c, err := agentproto.ReadControl(control)
		if err != nil {
			command.signal(syscall.SIGKILL)
			return
		}
		if c.Resize != nil {
			files.resize(*c.Resize)
		}
		if c.Signal != 0 {
			command.signal(syscall.Signal(c.Signal))
		}
	}
}

func exitOf(status syscall.WaitStatus) *agentproto.Exit {
	if status.Signaled() {
		return &agentproto.Exit{Signal: int(status.Signal()), CoreDumped: status.CoreDump()}
	}
	return &agentproto.Exit{Code: status.ExitStatus()}
}
