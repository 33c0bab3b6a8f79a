package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	place     = "/run/disks"
	fullPlace = place + "/small"
	name      = "disks"
)

// host takes the stile to run, a block device of this host that may be overwritten, and the program for the guest.
func host(args []string) error {
	stile, device, program := args[0], args[1], args[2]
	if err := await(device, func() bool { _, err := os.Stat(device); return err == nil }); err != nil {
		return err
	}
	if err := os.MkdirAll(fullPlace, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("none", fullPlace, "tmpfs", 0, fmt.Sprintf("size=%d", fullSize/2)); err != nil {
		return fmt.Errorf("mount a small file system: %w", err)
	}
	growing, filling := place+"/growing", fullPlace+"/filling"
	if err := errors.Join(sparse(growing, smallSize), sparse(filling, fullSize)); err != nil {
		return err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-b", strconv.Itoa(fileSystemBlock), "-O", "^has_journal", growing).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	cmd := exec.Command(stile, "run", "--name", name, "-c", "2", "-m", "192M", "--disk", device+",serial="+block,
		"--disk", growing+",serial="+grows+",format=raw", "--disk", filling+",serial="+full+",format=raw", "--", program, "guest")
	var said bytes.Buffer
	cmd.Stderr = io.MultiWriter(&said, os.Stderr)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	asked := serve(stdout, stdin, map[string]func() error{
		askGrow: func() error { return steer(stile, "resize", grows, fmt.Sprintf("%dM", largeSize>>20)) },
		askCut:  func() error { return os.Truncate(growing, smallSize) },
	})
	if asked != nil {
		_ = stdin.Close() // the guest is not to wait
	}
	if err := errors.Join(asked, cmd.Wait()); err != nil {
		return err
	}
	for _, want := range []string{"no space left on device", "unexpected EOF"} {
		if !strings.Contains(said.String(), want) {
			return fmt.Errorf("the user was not told of %q: %s", want, said.String())
		}
	}
	return checkDevice(device)
}

// serve does what the guest asks for until its output ends.
func serve(from io.Reader, to io.Writer, actions map[string]func() error) error {
	for lines := bufio.NewScanner(from); lines.Scan(); {
		action := actions[lines.Text()]
		if action == nil {
			fmt.Println(lines.Text())
			continue
		}
		if err := action(); err != nil {
			return fmt.Errorf("%s: %w", lines.Text(), err)
		}
		if _, err := fmt.Fprintln(to, "done"); err != nil {
			return err
		}
	}
	return nil
}

func steer(stile string, args ...string) error {
	out, err := exec.Command(stile, append([]string{"ctl", name}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("stile ctl %q: %w: %s", args, err, out)
	}
	return nil
}

func sparse(path string, size int64) error {
	return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, size))
}

// checkDevice looks for what the guest wrote at last.
func checkDevice(device string) error {
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	got, want := make([]byte, blockSize), make([]byte, blockSize)
	for i := range int64(workers * regionBlocks) {
		if _, err := f.ReadAt(got, i*blockSize); err != nil {
			return err
		}
		if pattern(want, i, lastPass); !bytes.Equal(got, want) {
			return fmt.Errorf("block %d of %s is not what the guest wrote at last", i, device)
		}
	}
	return nil
}
