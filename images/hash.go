package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// clockStep is longer than the steps in which file systems count time: within one, a file can change and keep its times.
const clockStep = 20 * time.Millisecond

// HashFile returns the hex sha256 of a file. It is remembered by the file's device and inode, for the size and the times
// that the file had, so that a big file is read once.
func (c *Cache) HashFile(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", path, err)
	}
	memo := c.path(KindHash, fmt.Sprintf("%x-%x", st.Dev, st.Ino))
	version := fileVersion(&st)
	if words, err := readRecord(memo); err == nil && len(words) == len(version)+1 && slices.Equal(words[1:], version) {
		touch(memo)
		return words[0], nil
	}
	hash, err := hashOpen(ctx, f)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	if age := time.Since(time.Unix(st.Ctim.Unix())); age >= 0 && age < clockStep {
		return hash, nil // a change at this moment would not show
	}
	if writeRecord(memo, append([]string{hash}, version...)...) == nil { // it only saves time
		c.trim(KindHash)
	}
	return hash, nil
}

// fileVersion changes whenever the file of an inode does.
func fileVersion(st *unix.Stat_t) []string {
	return []string{strconv.FormatInt(st.Size, 10), formatTime(st.Mtim), formatTime(st.Ctim)}
}

func formatTime(t unix.Timespec) string { return fmt.Sprintf("%d.%09d", t.Sec, t.Nsec) }

func hashOpen(ctx context.Context, r io.Reader) (string, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, &contextReader{ctx, r}); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
