package distro

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/stile-vmm/stile/images"
)

// Source is a kernel's source, packed.
type Source struct {
	// Version names the source exactly: the package with its version.
	Version string
	// Tarball is the file, in the cache: a .tar.xz with one folder in it.
	Tarball string
}

const sourcePrefix = "linux-source-"

var sourceTarball = regexp.MustCompile(`^usr/src/` + sourcePrefix + `[^/]+(\.tar\.xz)$`)

// FetchSource returns the packaged source of a kernel ("6.12", or "7.2@sid" from another suite of the distribution): the
// one in the cache, else the newest that the system's package manager has.
func FetchSource(ctx context.Context, cache *images.Cache, version string, progress func(string)) (*Source, error) {
	s, err := fetchSource(ctx, cache, version, progress)
	if err != nil {
		return nil, fmt.Errorf("kernel source %s: %w", version, err)
	}
	return s, nil
}

func fetchSource(ctx context.Context, cache *images.Cache, named string, progress func(string)) (*Source, error) {
	if p, ok := recall(cache, sourceMemo(named)); ok {
		if path, ok := cache.Lookup(images.KindSource, p.tarball()); ok {
			return &Source{Version: p.String(), Tarball: path}, nil
		}
	}
	version, suite, err := splitSuite(named)
	if err != nil {
		return nil, err
	}
	var s *Source
	err = withApt(ctx, suite, progress, func(a *apt) (err error) {
		s, err = a.source(ctx, cache, version, sourceMemo(named))
		return err
	})
	return s, err
}

func (p *pkg) tarball() string { return p.key() + ".tar.xz" }

// source returns the newest source that apt has, from the cache if it is there.
func (a *apt) source(ctx context.Context, cache *images.Cache, version, memo string) (*Source, error) {
	if m := wantVersion.FindStringSubmatch(version); m == nil || m[2] != "" {
		return nil, fmt.Errorf("invalid version %q: expected one such as 6.12", version)
	}
	var path string
	find := func() (*pkg, error) { return a.show(ctx, sourcePrefix+version, "") }
	p, err := a.get(ctx, find, func(p *pkg) (err error) {
		path, err = cache.File(ctx, images.KindSource, p.tarball(), func(w *os.File) error {
			return a.unpack(ctx, p, filepath.Dir(w.Name()), func(deb *os.File) error { return extractSource(deb, w) })
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := remember(ctx, cache, memo, p); err != nil {
		return nil, err
	}
	return &Source{Version: p.String(), Tarball: path}, nil
}

// maxTarball bounds a packed source, in bytes. Linux 6.12's has 145 MiB.
const maxTarball = 1 << 30

var errFound = errors.New("found")

func extractSource(deb io.Reader, w io.Writer) error {
	err := walkDeb(deb, func(h *tar.Header, r io.Reader) error {
		if h.Typeflag != tar.TypeReg || !sourceTarball.MatchString(strings.TrimPrefix(h.Name, "./")) {
			return nil
		}
		if h.Size > maxTarball {
			return errTooBig
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
		return errFound
	})
	if err == nil {
		return errors.New("it has no usr/src/" + sourcePrefix + "*.tar.xz")
	}
	if err != errFound {
		return err
	}
	return nil
}

// What a source may unpack to: Linux 6.12's are 1.5 GiB in 93,000 entries.
var sourceLimits = limits{bytes: 8 << 30, entries: 500_000}

// Unpack writes the source into dir, an existing empty folder, without the folder that it is packed in.
func (s *Source) Unpack(ctx context.Context, dir string) error {
	f, err := os.Open(s.Tarball)
	if err != nil {
		return err
	}
	defer f.Close()
	x, err := newExtractor(ctx, dir, sourceLimits)
	if err != nil {
		return err
	}
	defer x.Close()
	err = walkTar(filepath.Ext(s.Tarball), f, func(h *tar.Header, r io.Reader) error {
		name, err := cleanName(h.Name)
		if err != nil {
			return err
		}
		_, name, inside := strings.Cut(name, "/")
		if !inside {
			return nil
		}
		return x.add(name, h, r)
	})
	if err != nil {
		return fmt.Errorf("unpack %s: %w", s.Tarball, err)
	}
	return nil
}
