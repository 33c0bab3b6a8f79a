package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/stile-vmm/stile/boot"
	"github.com/stile-vmm/stile/internal/child"
)

// envUnpack makes a child of this program unpack a kernel.
const envUnpack = "STILE_UNPACK"

// The child's exit statuses, 0 aside.
const (
	unpackFailed      = 1
	unpackUnsupported = 3
)

// MaybeUnpack does the work of a child that Unpacked started, and doesn't return from it.
// In any other process it returns at once. A program calls it first in main if it opens
// its Unpacker with Child set.
func MaybeUnpack() {
	if os.Getenv(envUnpack) != "1" {
		return
	}
	err := unpack(os.Stdin, os.Stdout)
	switch {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, boot.ErrUnsupported):
		os.Exit(unpackUnsupported)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(unpackFailed)
}

func unpack(image, to *os.File) error {
	info, err := image.Stat()
	if err != nil {
		return err
	}
	k, err := boot.NewKernel(image.Name(), image, info.Size())
	if err != nil {
		return err
	}
	return k.UnpackFile(to)
}

// Unpack says how Unpacked does its work.
type Unpack struct {
	// Child has it done by a child process, a second run of this program, whose
	// memory ends with it: a decompressor's window may take 128 MiB. The program must call MaybeUnpack.
	Child bool
}

// unpackFormat is part of every key: it changes when the same kernel is unpacked to other bytes.
const unpackFormat = "1"

// Unpacked returns the path of the ELF kernel inside a bzImage. A kernel that is ELF already, or packed
// in a way that only itself can unpack, is returned as it is.
func (c *Cache) Unpacked(ctx context.Context, path string, how Unpack) (string, error) {
	k, err := boot.Open(path)
	if err != nil {
		return "", err
	}
	defer k.Close()
	if k.Format() == boot.ELF {
		return path, nil
	}
	hash, err := c.HashFile(ctx, path)
	if err != nil {
		return "", fmt.Errorf("kernel %s: %w", path, err)
	}
	unpacked, err := c.File(ctx, KindUnpacked, hash+"-"+unpackFormat, func(w *os.File) error {
		if how.Child {
			return unpackInChild(ctx, path, w)
		}
		return k.UnpackFile(w)
	})
	if errors.Is(err, boot.ErrUnsupported) {
		return path, nil
	}
	return unpacked, err
}

func unpackInChild(ctx context.Context, path string, w *os.File) error {
	if os.Getenv(envUnpack) == "1" {
		return errors.New("unpack a kernel: this program does not call images.MaybeUnpack, and would start itself for ever")
	}
	image, err := os.Open(path)
	if err != nil {
		return err
	}
	defer image.Close()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), envUnpack+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = image, w, &stderr
	err = child.Run(cmd)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &exit) && exit.ExitCode() == unpackUnsupported:
		return boot.ErrUnsupported
	case stderr.Len() > 0:
		return fmt.Errorf("unpack %s: %s", path, strings.TrimSpace(stderr.String()))
	}
	return fmt.Errorf("unpack %s: %w", path, err)
}
