package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// AwaitLab waits for a lab machine to say that it can be saved, and returns the hash of
// its agent, which ResumeLab needs. It doesn't close conn, except when ctx ends.
func AwaitLab(ctx context.Context, conn io.ReadWriteCloser) (hash string, err error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	hash, err = agentproto.ReadLabLine(conn)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("wait for the lab's machine: %w", err)
	}
	return hash, nil
}

// ResumeLab tells a resumed lab machine, whose saved agent has the hash saved, to go on
// with the static binary at path, and sends that binary unless the machine has it. The machine's random numbers start
// from a seed that this call draws. Dial comes next, on the same conn. It doesn't close conn, except when ctx ends.
func ResumeLab(ctx context.Context, conn io.ReadWriteCloser, saved, path string) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	err := resumeLab(conn, saved, path)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("resume the lab's machine: %w", err)
	}
	return nil
}

func resumeLab(conn io.Writer, saved, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	hash, checksum := sha256.New(), agentproto.NewChecksum()
	size, err := io.Copy(io.MultiWriter(hash, checksum), f)
	if err != nil {
		return err
	}
	line := agentproto.RunLine{Hash: hex.EncodeToString(hash.Sum(nil)), Size: size, Checksum: checksum.Sum64()}
	rand.Read(line.Seed[:]) // never fails
	if line.Hash == saved {
		line.Size = 0
	}
	if _, err := io.WriteString(conn, line.String()); err != nil {
		return err
	}
	if line.Size == 0 {
		return nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = io.CopyN(struct{ io.Writer }{conn}, f, size)
	return err
}
