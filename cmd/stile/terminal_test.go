package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/creack/pty"
)

// TestTerminals gives commands in a guest and in the nested host a terminal of this one's size.
func TestTerminals(t *testing.T) {
	needGuests(t)
	const script = `stty size; if test -t 0 && test -t 1 && test -t 2; then echo "a terminal, $TERM"; fi; : </dev/tty && echo in control
		trap 'stty size' WINCH; trap 'echo interrupted; exit 5' INT
		read line; echo "got $line"; while :; do sleep 0.1; done`
	for name, args := range map[string][]string{
		"guest":       {"run", "-t", "--", "sh", "-c", script},
		"nested host": {"lab", "run", "--topology", "plain", "-t", "--", "sh", "-c", script},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), args...)
			cmd.Env = append(os.Environ(), "TERM=xterm-256color")
			term, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 100})
			if err != nil {
				t.Fatal(err)
			}
			defer term.Close()
			kill := time.AfterFunc(processLimit, func() { cmd.Process.Kill() })
			defer kill.Stop()
			said := expecter{t: t, from: term}
			if _, err := io.WriteString(term, "typed\n"); err != nil { // waits in the terminal
				t.Fatal(err)
			}
			said.expect("30 100", "a terminal, xterm-256color", "in control", "got typed")
			if err := pty.Setsize(term, &pty.Winsize{Rows: 40, Cols: 120}); err != nil {
				t.Fatal(err)
			}
			said.expect("40 120")
			if _, err := io.WriteString(term, "\x03"); err != nil { // Ctrl-C
				t.Fatal(err)
			}
			said.expect("interrupted")
			_, _ = io.Copy(io.Discard, term) // ends with EIO when the last user closes it
			err = cmd.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 5 {
				t.Errorf("%v, want exit status 5", err)
			}
		})
	}
}

// TestBackground runs a command as a shell's job in the background, where it does not stop for its input, and brings it to the foreground.
func TestBackground(t *testing.T) {
	needGuests(t)
	script := filepath.Join(tools, "stile") + ` lab run --topology plain -- sh -c 'echo ran; read line; echo "got $line"; exit 5' & read go; fg; echo "status $?"`
	cmd := exec.CommandContext(t.Context(), "sh", "-mc", script)
	term, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	kill := time.AfterFunc(processLimit, func() { cmd.Process.Kill() })
	defer kill.Stop()
	said := expecter{t: t, from: term}
	said.expect("ran")
	for _, line := range []string{"go\n", "typed\n"} {
		if _, err := io.WriteString(term, line); err != nil {
			t.Fatal(err)
		}
	}
	said.expect("got typed", "status 5")
	_, _ = io.Copy(io.Discard, term) // ends with EIO
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// expecter reads what a terminal shows.
type expecter struct {
	t    *testing.T
	from io.Reader
	text []byte // read, and not yet expected
}

// expect reads until all of the texts have come, one behind the other.
func (e *expecter) expect(texts ...string) {
	e.t.Helper()
	for _, want := range texts {
		for {
			if _, after, ok := bytes.Cut(e.text, []byte(want)); ok {
				e.text = after
				break
			}
			part := make([]byte, 1024)
			n, err := e.from.Read(part)
			if e.text = append(e.text, part[:n]...); err != nil {
				e.t.Fatalf("waiting for %q: %v; the terminal shows %q", want, err, e.text)
			}
		}
	}
}
