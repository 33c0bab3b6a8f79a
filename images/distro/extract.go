package distro

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// limits bounds what an archive may unpack to.
type limits struct {
	bytes   int64
	entries int
}

var errTooBig = errors.New("unpacks to more than is credible for a kernel")

// extractor writes what is in an archive below a folder. Nothing is written outside of it, and no link in it leads
// outside: links only point forward or up by as many folders as they are below, and no entry lies behind one.
type extractor struct {
	ctx   context.Context
	root  *os.Root
	left  limits
	links map[string]bool // the symbolic links written, by their paths
	dirs  map[string]bool // the folders made
}

func newExtractor(ctx context.Context, dir string, limit limits) (*extractor, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &extractor{ctx: ctx, root: root, left: limit, links: make(map[string]bool), dirs: make(map[string]bool)}, nil
}

func (x *extractor) Close() error { return x.root.Close() }

// cleanName makes a path below the folder of an archive's name for a file, "." for the folder itself.
func cleanName(name string) (string, error) {
	if clean := path.Clean(name); filepath.IsLocal(clean) {
		return clean, nil
	}
	return "", fmt.Errorf("%q lies outside of the archive", name)
}

// add writes a member of an archive as name, which cleanName has returned.
func (x *extractor) add(name string, h *tar.Header, r io.Reader) error {
	if name == "." {
		return nil
	}
	if err := context.Cause(x.ctx); err != nil {
		return err
	}
	x.left.entries--
	x.left.bytes -= h.Size
	if x.left.entries < 0 || x.left.bytes < 0 || h.Size < 0 {
		return errTooBig
	}
	if err := x.mkdir(path.Dir(name)); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return x.mkdir(name)
	case tar.TypeReg:
		return x.write(name, h, r)
	case tar.TypeSymlink:
		return x.link(name, h.Linkname)
	}
	return fmt.Errorf("%s: entries of type %q are not unpacked", name, h.Typeflag)
}

func (x *extractor) mkdir(name string) error {
	if x.dirs[name] || name == "." {
		return nil
	}
	for dir := name; dir != "."; dir = path.Dir(dir) {
		if x.links[dir] {
			return fmt.Errorf("%s: lies behind the symbolic link %s", name, dir)
		}
	}
	if err := x.root.MkdirAll(name, 0o755); err != nil {
		return err
	}
	x.dirs[name] = true
	return nil
}

func (x *extractor) write(name string, h *tar.Header, r io.Reader) error {
	mode := os.FileMode(0o644)
	if h.Mode&0o111 != 0 {
		mode = 0o755
	}
	f, err := x.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return fmt.Errorf("%s: %w", name, err)
	}
	return f.Close()
}

func (x *extractor) link(name, target string) error {
	if err := checkLink(name, target); err != nil {
		return err
	}
	x.links[name] = true
	return x.root.Symlink(target, name)
}

// checkLink tells whether a link at name stays in the folder. That is certain only where ".." comes first:
// after the name of another link it means something else than what it looks like.
func checkLink(name, target string) error {
	depth := strings.Count(name, "/")
	down := false
	for part := range strings.SplitSeq(target, "/") {
		switch {
		case part == ".." && (down || depth == 0), path.IsAbs(target), target == "":
			return fmt.Errorf("symbolic link %s leads out of the archive: %q", name, target)
		case part == "..":
			depth--
		case part != "" && part != ".":
			down = true
		}
	}
	return nil
}
