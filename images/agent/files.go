package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// push writes a file beside its name and renames it.
func push(p *agentproto.Push, r io.Reader) (err error) {
	if err := os.MkdirAll(filepath.Dir(p.Path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(p.Path), ".stile-push-*")
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if n, err := io.CopyN(f, r, p.Size); err != nil {
		return fmt.Errorf("write %s: %d of %d bytes: %w", p.Path, n, p.Size, err)
	}
	if err := f.Chmod(fs.FileMode(p.Mode).Perm()); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), p.Path)
}

// pull describes a file and sends its bytes. One that shrinks meanwhile is cut short, which the host notices.
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
	io.CopyN(struct{ io.Writer }{w}, f, size.Size)
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
