package session_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/session"
)

// TestInputLeft: what a command does not read of a file or a pipe is still there afterwards.
func TestInputLeft(t *testing.T) {
	s := dial(t)
	long := strings.Repeat("0123456789abcde\n", 100_000)
	for _, test := range []struct {
		name, input, command string
		out                  string
		fileLeft, pipeLeft   int // bytes at the end of input; -1 for any number
	}{
		{"reads nothing", "a\nb\n", "echo x", "x\n", 4, 4},
		{"reads nothing of much", long, "echo x", "x\n", len(long), len(long)},
		{"reads a line", "a\nb\nc\n", "read x; echo $x", "a\n", 4, 4},
		{"reads all", "a\nb\n", "cat", "a\nb\n", 0, 0},
		{"reads much", long, "cat", long, 0, 0},
		{"reads a part of much", long, "head -c 100000 >/dev/null", "", -1, -1},
		{"reads bytes of much", long, "dd bs=1 count=5000 2>/dev/null | wc -c", "5000\n", len(long) - 5000, -1},
		{"reads and closes", "a\nb\nc\n", "read x; exec <&-; echo $x", "a\n", 4, 4},
		{"is empty", "", "cat", "", 0, 0},
	} {
		t.Run(test.name+" of a file", func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "input")
			if err := os.WriteFile(path, []byte("skipped"+test.input), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.Seek(7, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			checkLeft(t, s, f, test.command, test.out, test.input, test.fileLeft)
		})
		t.Run(test.name+" of a pipe", func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			go func() {
				_, _ = io.WriteString(w, test.input)
				w.Close()
			}()
			checkLeft(t, s, r, test.command, test.out, test.input, test.pipeLeft)
		})
	}
}

func checkLeft(t *testing.T, s *session.Session, stdin *os.File, command, out, input string, left int) {
	t.Helper()
	var got bytes.Buffer
	run(t, s, &session.Cmd{Args: []string{"sh", "-c", command}, Stdin: stdin, Stdout: &got})
	if got.String() != out {
		t.Errorf("%d bytes of output: %.20q, want %d: %.20q", got.Len(), got.String(), len(out), out)
	}
	rest, err := io.ReadAll(stdin)
	if err != nil || left >= 0 && string(rest) != input[len(input)-left:] {
		t.Errorf("%d bytes are left: %.20q, %v; want %d", len(rest), rest, err, left)
	}
}

// TestInputFails: a source that fails is an error of a command that ended well.
func TestInputFails(t *testing.T) {
	s := dial(t)
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	broken := errors.New("broken")
	for _, test := range []struct {
		stdin io.Reader
		want  error
	}{
		{io.MultiReader(strings.NewReader("some"), &failingReader{broken}), broken},
		{dir, syscall.EISDIR},
	} {
		p, err := s.Start(testContext(t), &session.Cmd{Args: []string{"cat"}, Stdin: test.stdin})
		if err != nil {
			t.Fatal(err)
		}
		var failed *session.StreamError
		if status, err := p.Wait(); status.Code != 0 || !errors.Is(err, test.want) || !errors.As(err, &failed) || failed.Stream != agentproto.Stdin {
			t.Errorf("%v, %v; want %v", status, err, test.want)
		}
	}
}

type failingReader struct{ err error }

func (f *failingReader) Read([]byte) (int, error) { return 0, f.err }
