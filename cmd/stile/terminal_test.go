package main

import (
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

// TestTerminals gives commands in a guest and in the nested host a terminal of this one's size.
func TestTerminals(t *testing.T) {
	needGuests(t)
	const script = `stty size; if test -t 0 && test -t 1 && test -t 2; then echo a terminal; fi; read line; echo "got $line"; exit 5`
	for name, args := range map[string][]string{
		"guest":       {"run", "-t", "--", "sh", "-c", script},
		"nested host": {"lab", "run", "--topology", "plain", "-t", "--", "sh", "-c", script},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), args...)
			term, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 100})
			if err != nil {
				t.Fatal(err)
			}
			defer term.Close()
			kill := time.AfterFunc(processLimit, func() { cmd.Process.Kill() })
			defer kill.Stop()
			if _, err := io.WriteString(term, "typed\n"); err != nil { // waits in the terminal
				t.Fatal(err)
			}
			out, _ := io.ReadAll(term) // ends with EIO when the last user closes it
			err = cmd.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 5 {
				t.Errorf("%v, want exit status 5", err)
			}
			for _, want := range []string{"30 100", "a terminal", "got typed"} {
				if !strings.Contains(string(out), want) {
					t.Errorf("no %q in %q", want, out)
				}
			}
		})
	}
}
