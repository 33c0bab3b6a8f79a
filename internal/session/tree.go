package session

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// Tree says which files of a guest PullTree copies.
type Tree struct {
	// From is the folder in the guest. One that is not there is empty.
	From string
	// To is the folder here, which is made.
	To string
	// Since leaves out what was not changed since then, by the guest's clock.
	Since time.Time
	// Limit bounds what a guest can make this host store, in bytes; 0 is DefaultTreeLimit.
	Limit int64
}

const (
	// DefaultTreeLimit is Tree's default Limit.
	DefaultTreeLimit = 4 << 30
	// maxTreeFiles bounds the number of files of a tree.
	maxTreeFiles = 100_000
)

// PullTree copies a folder's regular files from the guest, and folders as those need them. Nothing is written
// outside t.To, whatever names the guest sends.
func (s *Session) PullTree(ctx context.Context, t Tree) error {
	if err := s.pullTree(ctx, t); err != nil {
		return fmt.Errorf("pull %s from the guest: %w", t.From, err)
	}
	return nil
}

func (s *Session) pullTree(ctx context.Context, t Tree) error {
	r, w := io.Pipe()
	defer r.Close()
	var stderr bytes.Buffer
	p, err := s.Start(ctx, &Cmd{
		Args: []string{agentproto.Packer},
		Env: []string{
			agentproto.EnvPack + "=" + t.From,
			agentproto.EnvPackSince + "=" + strconv.FormatInt(t.Since.UnixNano(), 10),
		},
		Stdout: w, Stderr: &limitedWriter{w: &stderr, left: maxPackerWords},
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		status, err := p.Wait()
		if err == nil && status.ExitCode() != 0 {
			err = fmt.Errorf("%v: %s", status, bytes.TrimSpace(stderr.Bytes()))
		}
		w.CloseWithError(err)
		ended <- err
	}()
	unpackErr := unpackTree(r, t)
	if unpackErr != nil {
		_ = p.Kill() // it may have ended
	}
	_, _ = io.Copy(io.Discard, r) // the archive's padding
	if err := <-ended; err != nil && unpackErr == nil {
		return err
	}
	return unpackErr
}

// maxPackerWords bounds what the packer may say about its failure, in bytes.
const maxPackerWords = 4096

func unpackTree(r io.Reader, t Tree) error {
	left, files := t.Limit, 0
	if left == 0 {
		left = DefaultTreeLimit
	}
	var root *os.Root
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if root == nil { // a folder in which nothing was written is not made
			if err := os.MkdirAll(t.To, 0o777); err != nil {
				return err
			}
			if root, err = os.OpenRoot(t.To); err != nil {
				return err
			}
			defer root.Close()
		}
		files++
		if left -= h.Size; left < 0 || files > maxTreeFiles {
			return fmt.Errorf("more than %d bytes or %d files", t.Limit, maxTreeFiles)
		}
		if err := unpackFile(root, h, archive); err != nil {
			return err
		}
	}
}

func unpackFile(root *os.Root, h *tar.Header, r io.Reader) error {
	name := path.Clean(h.Name)
	if h.Typeflag != tar.TypeReg || strings.HasPrefix(name, "/") || name == "." {
		return fmt.Errorf("%q is not the name of a regular file in it", h.Name)
	}
	if err := root.MkdirAll(path.Dir(name), 0o777); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, fs.FileMode(h.Mode)&0o777|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// limitedWriter keeps the start of what is written to it.
type limitedWriter struct {
	w    io.Writer
	left int
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}
