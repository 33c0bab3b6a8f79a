package kbuild

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/stile-vmm/stile/internal/child"
	"github.com/stile-vmm/stile/internal/trust"
)

// drainTime is how long a build that is told to end may take.
const drainTime = 10 * time.Second

// make runs make in the source's folder. What it prints goes to the log, and a line now and then to progress.
func (b *build) make(args ...string) error {
	cmd := exec.CommandContext(b.ctx, "make", append([]string{"-C", b.src}, args...)...)
	cmd.Env = environment()
	cmd.WaitDelay = drainTime
	watch := &progressWriter{report: b.progress, start: time.Now()}
	out := io.MultiWriter(b.log, watch)
	cmd.Stdout, cmd.Stderr = out, out
	err := child.RunWithCancel(cmd, syscall.SIGTERM)
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if err != nil {
		return &makeError{target: args[len(args)-1], err: err}
	}
	return nil
}

// makeError is a make that failed, whose log is worth a look.
type makeError struct {
	target string
	err    error
}

func (e *makeError) Error() string { return fmt.Sprintf("make %s: %v", e.target, e.err) }
func (e *makeError) Unwrap() error { return e.err }

// environment is what a build gets: what is set for the builds of others, such as ARCH, MAKEFLAGS or KBUILD_OUTPUT, is
// not for this one, and nothing of this machine's name goes into the kernel.
func environment() []string {
	env := []string{"LC_ALL=C", "KBUILD_BUILD_USER=stile", "KBUILD_BUILD_HOST=stile", "TMPDIR=" + trust.TempDir()}
	for _, name := range []string{"PATH", "HOME"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// progressWriter counts the files that a build says it makes, and reports every now and then.
type progressWriter struct {
	report func(string)
	start  time.Time
	files  int
}

// reportEvery is the number of files between two reports.
const reportEvery = 250

func (w *progressWriter) Write(p []byte) (int, error) {
	for _, c := range p {
		if c != '\n' {
			continue
		}
		w.files++
		if w.files%reportEvery == 0 {
			w.report(fmt.Sprintf("build: %d files, %v", w.files, time.Since(w.start).Round(time.Second)))
		}
	}
	return len(p), nil
}

// tailLines is how much of a failed build's log is in the error; maxLine bounds one line, in bytes.
const (
	tailLines = 15
	maxLine   = 1 << 20
)

// tail returns the last lines of a log, and before them the first that names an error: with several
// jobs the others go on for a while.
func tail(log io.Reader) string {
	var last []string
	first, firstAt, n := "", 0, 0
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		n++
		if first == "" && strings.Contains(lines.Text(), "error:") {
			first, firstAt = lines.Text(), n
		}
		last = append(last, lines.Text())
		if len(last) > tailLines {
			last = last[1:]
		}
	}
	if first != "" && firstAt <= n-tailLines {
		last = append([]string{first, "…"}, last...)
	}
	return strings.Join(last, "\n")
}
