package vmtest

import (
	"errors"
	"io"
	"io/fs"
	"sync/atomic"
	"syscall"
)

// StdinPipe returns a pipe to the command's standard input. Close it so that the command sees the end;
// Wait closes it too. A write to a command that reads no more is syscall.EPIPE.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	if c.Stdin != nil || c.started {
		return nil, errors.New("vmtest: Stdin already set or command started")
	}
	r, w := io.Pipe()
	ours := &inputPipe{PipeWriter: w}
	theirs := commandInput{r}
	c.Stdin, c.theirs, c.ours = theirs, append(c.theirs, theirs), append(c.ours, ours)
	return ours, nil
}

// StdoutPipe returns a pipe from the command's standard output. Read it to its end before Wait, which closes it.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) {
	if c.Stdout != nil || c.started {
		return nil, errors.New("vmtest: Stdout already set or command started")
	}
	r, w := c.outputPipe()
	c.Stdout = w
	return r, nil
}

// StderrPipe is StdoutPipe for standard error.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) {
	if c.Stderr != nil || c.started {
		return nil, errors.New("vmtest: Stderr already set or command started")
	}
	r, w := c.outputPipe()
	c.Stderr = w
	return r, nil
}

func (c *Cmd) outputPipe() (io.ReadCloser, io.Writer) {
	r, w := io.Pipe()
	ours := &readPipe{PipeReader: r}
	c.theirs, c.ours = append(c.theirs, w), append(c.ours, ours)
	return ours, outputPipe{w}
}

// inputPipe is the caller's end of a command's standard input.
type inputPipe struct {
	*io.PipeWriter
	closed atomic.Bool
}

// Write implements io.Writer.
func (p *inputPipe) Write(b []byte) (int, error) {
	n, err := p.PipeWriter.Write(b)
	if err != nil && p.closed.Load() {
		err = fs.ErrClosed
	}
	return n, err
}

// Close implements io.Closer.
func (p *inputPipe) Close() error {
	if p.closed.Swap(true) {
		return fs.ErrClosed
	}
	return p.PipeWriter.Close()
}

// commandInput is the command's end of its standard input.
type commandInput struct{ *io.PipeReader }

// Close implements io.Closer: what is written then meets a broken pipe.
func (p commandInput) Close() error { return p.CloseWithError(syscall.EPIPE) }

// EndInput implements session.InputEnder.
func (p commandInput) EndInput() { _ = p.Close() } // a pipe in memory

// readPipe is the caller's end of a command's output.
type readPipe struct {
	*io.PipeReader
	closed atomic.Bool
}

// Read implements io.Reader.
func (p *readPipe) Read(b []byte) (int, error) {
	n, err := p.PipeReader.Read(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = fs.ErrClosed
	}
	return n, err
}

// Close implements io.Closer.
func (p *readPipe) Close() error {
	if p.closed.Swap(true) {
		return fs.ErrClosed
	}
	return p.PipeReader.Close()
}

// outputPipe ends with the command's end of it: who reads one to its end may not be reading the other yet.
type outputPipe struct{ *io.PipeWriter }

// EndOutput implements session.Ender.
func (p outputPipe) EndOutput() { _ = p.Close() } // a pipe in memory

func closeAll(ends []io.Closer) {
	for _, end := range ends {
		_ = end.Close() // a pipe in memory
	}
}
