package agent

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// maybePack packs and does not return where that is what this process was started for.
func maybePack() {
	dir := os.Getenv(agentproto.EnvPack)
	if dir == "" {
		return
	}
	ns, err := strconv.ParseInt(os.Getenv(agentproto.EnvPackSince), 10, 64)
	if err == nil {
		err = pack(os.Stdout, dir, time.Unix(0, ns))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// pack writes the regular files below dir whose content or attributes changed since then. A folder that is not there is
// an empty one. Links and devices stay where they are: they would mean something else elsewhere.
func pack(w io.Writer, dir string, since time.Time) error {
	out := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // it was never made, or vanished meanwhile
			}
			return err
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return packFile(out, path, name, since)
	})
	return errors.Join(err, out.Close())
}

func packFile(out *tar.Writer, path, name string, since time.Time) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || time.Unix(st.Ctim.Unix()).Before(since) {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(st.Mode & 0o777), Size: st.Size}
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	// A file that grows is cut, one that shrinks breaks the archive off.
	_, err = io.CopyN(out, f, st.Size)
	return err
}
