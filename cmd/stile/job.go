package main

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// jobInput is a terminal that this process reads as a job of a shell. In the background the kernel would stop the whole process for
// reading (SIGTTIN), though its guest may want no input at all: it waits for the foreground instead.
type jobInput struct{ file *os.File }

// backgroundInterval is how often a job in the background looks whether it is in front: nothing tells it.
const backgroundInterval = 200 * time.Millisecond

// standardInput returns this process's standard input for a guest's command.
func standardInput() io.Reader {
	if !isTerminal(os.Stdin) {
		return os.Stdin
	}
	signal.Ignore(syscall.SIGTTIN) // Read gets EIO then
	return jobInput{os.Stdin}
}

func (j jobInput) Read(p []byte) (int, error) {
	for front := false; ; {
		n, err := j.file.Read(p)
		if !errors.Is(err, unix.EIO) {
			return n, err
		}
		before := front
		switch front = inFront(j.file); {
		case front && before: // who is in front now may have been in the background at one EIO; the terminal has hung up
			return n, io.EOF
		case !front:
			time.Sleep(backgroundInterval)
		}
	}
}

// inFront reports whether a terminal is this process's to read, or is gone.
func inFront(terminal *os.File) bool {
	group, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp()
}
