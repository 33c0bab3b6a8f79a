package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// chain is what is known above a backing file.
type chain struct {
	above   []fileID // the files of the images above
	allowed string   // Options.Backing, resolved
}

// newChain resolves the path that the user allows, if any.
func newChain(allowed string) (chain, error) {
	if allowed == "" {
		return chain{}, nil
	}
	real, err := filepath.EvalSymlinks(allowed)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return chain{}, fmt.Errorf("backing=%s: %w", allowed, err)
	}
	return chain{allowed: real}, nil
}

// backing opens the backing file that an image names. A guest, or whoever the image is from, may have written any name: one that is
// not beside the image, or that is a device, must be allowed by the user.
func (c *chain) backing(image *file, name string) (*file, error) {
	path := image.beside(name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeDevice != 0 {
		if err := c.check(image, path, true); err != nil {
			return nil, err
		}
	}
	f, err := openFile(path, false, false)
	if err != nil {
		return nil, err
	}
	// What was opened counts, not what the path leads to by now.
	if err := c.check(image, fmt.Sprintf("/proc/self/fd/%d", f.fd.Int()), f.isDevice); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// check refuses a path that is neither beside the image nor allowed.
func (c *chain) check(image *file, path string, device bool) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if c.allowed != "" && within(c.allowed, real) {
		return nil
	}
	if device {
		return fmt.Errorf("%s is a device of this host, which an image may not choose: if it is meant, allow it with backing=%s", real, real)
	}
	for _, beside := range []string{filepath.Dir(image.path), filepath.Dir(resolved(image.path))} {
		if filepath.Dir(real) == resolved(beside) {
			return nil
		}
	}
	return fmt.Errorf("%s is not in the image's folder, and an image may not choose among all files of this host: if it is meant, allow it with backing=%s",
		real, real)
}

// resolved returns a path without links, or the path itself where that can't be had.
func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return path
}

// within reports whether path is top or below it.
func within(top, path string) bool {
	return path == top || strings.HasPrefix(path, strings.TrimSuffix(top, "/")+"/")
}
