package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// push writes a file beside its name and renames it. A file that can't be replaced, a device or one of the kernel's file systems, is
// written to.
func push(p *agentproto.Push, r io.Reader) (err error) {
	if info, err := os.Stat(p.Path); err == nil && !info.Mode().IsRegular() {
		if info.IsDir() {
			return &fs.PathError{Op: "write", Path: p.Path, Err: unix.EISDIR}
		}
		return writeInPlace(p, r)
	}
	if err := os.MkdirAll(filepath.Dir(p.Path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(p.Path), ".stile-push-*")
	if err != nil {
		if _, statErr := os.Stat(p.Path); statErr == nil {
			return writeInPlace(p, r)
		}
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := receivePush(p, f, r); err != nil {
		return err
	}
	if err := f.Chmod(fs.FileMode(p.Mode).Perm()); err != nil {
		return err
	}
	err = os.Rename(f.Name(), p.Path)
	if errors.Is(err, unix.EBUSY) { // a file that something is mounted on
		return errors.Join(copyOver(f, p.Path), os.Remove(f.Name()))
	}
	return err
}

// receivePush takes the bytes of a push.
func receivePush(p *agentproto.Push, w io.Writer, r io.Reader) error {
	if p.Chunks {
		if err := agentproto.ReadChunks(w, r, math.MaxInt64); err != nil {
			return fmt.Errorf("write %s: %w", p.Path, err)
		}
		return nil
	}
	if n, err := io.CopyN(w, r, p.Size); err != nil {
		return fmt.Errorf("write %s: %d of %d bytes: %w", p.Path, n, p.Size, err)
	}
	return nil
}

// maxInPlace bounds what is written to a file in place, in bytes: the kernel's files take one write, of a page mostly.
const maxInPlace = 16 << 20

// writeInPlace writes all of a push to a file that is there, at once: a setting has no half.
func writeInPlace(p *agentproto.Push, r io.Reader) error {
	var data bytes.Buffer
	if err := receivePush(p, &limited{&data, maxInPlace}, r); err != nil {
		return err
	}
	f, err := os.OpenFile(p.Path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(data.Bytes())
	return errors.Join(err, f.Close())
}

type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.left {
		return 0, fmt.Errorf("more than %d bytes for a file that can't be replaced", maxInPlace)
	}
	l.left -= len(p)
	return l.w.Write(p)
}

func copyOver(from *os.File, path string) error {
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// pull describes a file and sends its bytes to the end, whatever its size says; then it says whether that is all.
func pull(p *agentproto.Pull, w io.Writer) {
	f, size, err := openRegular(p.Path)
	if err != nil {
		kind := agentproto.Failed
		if errors.Is(err, fs.ErrNotExist) {
			kind = agentproto.NotFound
		}
		refuse(w, kind, err)
		return
	}
	defer f.Close()
	if err := agentproto.WriteMessage(w, agentproto.MaxReply, &agentproto.Reply{File: size}); err != nil {
		return
	}
	err = agentproto.WriteChunks(w, f)
	if read := (*agentproto.ReadError)(nil); errors.As(err, &read) {
		if agentproto.EndChunks(w) == nil {
			refuse(w, agentproto.Failed, read.Err)
		}
		return
	}
	if err == nil {
		_ = agentproto.WriteMessage(w, agentproto.MaxReply, &agentproto.Reply{}) // the host may be gone
	}
}

func openRegular(path string) (*os.File, *agentproto.File, error) {
	// Stat first: opening a FIFO would wait for a writer.
	if info, err := os.Stat(path); err != nil {
		return nil, nil, err
	} else if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, &agentproto.File{Size: info.Size(), Mode: uint32(info.Mode().Perm())}, nil
}
