package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/session"
)

// command makes the command that runs in the guest. Without one it is a shell on the terminal.
func (f *runFlags) command(s *signals) (*session.Cmd, *terminal, error) {
	args, tty := f.args, f.tty
	if len(args) == 0 {
		args = []string{shell(f.spec.Root)}
		tty = tty || isTerminal(os.Stdin)
	}
	user, err := f.account()
	if err != nil {
		return nil, nil, err
	}
	dir, err := f.workDir()
	if err != nil {
		return nil, nil, err
	}
	cmd := &session.Cmd{Args: args, Dir: dir, Env: f.environment(), Stdin: standardInput(), Stdout: os.Stdout, Stderr: os.Stderr}
	if user != nil {
		cmd.User, cmd.Env = &user.user, append(user.env, cmd.Env...)
	}
	if !tty {
		return cmd, &terminal{}, nil
	}
	t, err := rawTerminal(os.Stdin, s)
	if err != nil {
		return nil, nil, err
	}
	size := t.size()
	cmd.TTY = &size
	return cmd, t, nil
}

func shell(root string) string {
	if sh := os.Getenv("SHELL"); sh != "" && root == guest.RootHost {
		return sh
	}
	return "sh"
}

// workDir is the command's working directory: in a view of the host's root the current one, or one below it.
func (f *runFlags) workDir() (string, error) {
	if !f.startsHere() {
		return f.dir, nil
	}
	dir, err := currentDir(true)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, f.dir), nil
}

// startsHere tells whether the command's working directory follows from this process's.
func (f *runFlags) startsHere() bool { return f.spec.Root == guest.RootHost && !filepath.IsAbs(f.dir) }

// currentDir returns the working directory. One that was deleted, or that can't be read, matters only where it is needed.
func currentDir(needed bool) (string, error) {
	dir, err := os.Getwd()
	switch {
	case err == nil:
		return dir, nil
	case !needed:
		return "/", nil
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("the current directory was deleted: change to another, or name one with --cwd of stile run: %w", err)
	}
	return "", fmt.Errorf("the current directory: %w", err)
}

// environment resolves --env; a bare KEY that is not set here is left out.
func (f *runFlags) environment() []string {
	var env []string
	for _, e := range f.env {
		if strings.Contains(e, "=") {
			env = append(env, e)
		} else if value, ok := os.LookupEnv(e); ok {
			env = append(env, e+"="+value)
		}
	}
	return env
}

// startFailed explains why the command could not be started in g.
func (f *runFlags) startFailed(ctx context.Context, g *guest.Guest, s *signals, err error) outcome {
	var start *session.StartError
	switch {
	case errors.As(err, &start):
		return outcome{status: start.ExitCode(), reason: "not-started", err: explainStart(f.args, err)}
	case ctx.Err() != nil && g.Ended() == nil:
		return f.stopped(ctx, g, s)
	}
	return f.lost(g, err)
}

// lost explains an error of the session: mostly a guest that died, unless it may boot again.
func (f *runFlags) lost(g *guest.Guest, err error) outcome {
	if f.spec.Reboots() && errors.Is(err, session.ErrAgentLost) {
		return outcome{err: err}
	}
	return lost(g, err)
}

func lost(g *guest.Guest, err error) outcome {
	why := g.WaitError(err)
	if ended := g.Ended(); ended != nil {
		return outcome{guest.ExitStatus(ended), "killed", ended, true}
	}
	if errors.Is(why, session.ErrAgentLost) || guest.ExitStatus(why) == guest.ExitDied {
		return outcome{guest.ExitDied, "died", g.WithLog(why), true}
	}
	return outcome{guest.ExitSetup, "setup", why, true}
}
