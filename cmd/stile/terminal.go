package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// terminal is the user's terminal in raw mode. The zero value is no terminal: its
// methods do nothing.
type terminal struct {
	file  *os.File
	state *term.State
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// rawTerminal puts the terminal into raw mode until restore.
func rawTerminal(f *os.File) (*terminal, error) {
	state, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	return &terminal{f, state}, nil
}

func (t *terminal) restore() {
	if t.file != nil {
		_ = term.Restore(int(t.file.Fd()), t.state)
	}
}

// size returns the terminal's size, 24 × 80 where it has none.
func (t *terminal) size() agentproto.Winsize {
	cols, rows, err := term.GetSize(int(t.file.Fd()))
	if err != nil || cols <= 0 || rows <= 0 {
		return agentproto.Winsize{Rows: 24, Cols: 80}
	}
	return agentproto.Winsize{Rows: uint16(min(rows, 0xffff)), Cols: uint16(min(cols, 0xffff))}
}

// watchSize calls fn after each change of the terminal's size, until the returned
// function is called.
func (t *terminal) watchSize(fn func(agentproto.Winsize)) func() {
	if t.file == nil {
		return func() {}
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	go func() {
		for range changed {
			fn(t.size())
		}
	}()
	return func() {
		signal.Stop(changed)
		close(changed)
	}
}
