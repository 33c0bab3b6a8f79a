package distro

import (
	"archive/tar"
	"bytes"
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

// What modules are built against comes in several packages: the kernel's own part, the part that is common to all flavours of
// a version, and the programs of the build. They are unpacked as they would be installed.
const (
	headersPrefix = "linux-headers-"
	kbuildPrefix  = "linux-kbuild-"
	headersFolder = "usr/src/"
	kbuildFolder  = "usr/lib/" + kbuildPrefix
)

// HeadersPackage names the package with which modules for a kernel of the distribution are built. release is what uname -r
// says in it.
func HeadersPackage(release string) string { return headersPrefix + release }

func headersMemo(release string) string { return "headers-" + release }

// FetchHeaders returns the folder against which modules for a packaged kernel can be built: the one in the cache, else what
// the system's package manager has for this very release. Nothing is installed. progress may be nil.
func FetchHeaders(ctx context.Context, cache *images.Cache, release string, progress func(string)) (string, error) {
	if dir, ok := LookupHeaders(cache, release); ok {
		return dir, nil
	}
	var dir string
	err := withApt(ctx, suiteOfRelease(cache, release), progress, func(a *apt) (err error) {
		dir, err = a.headers(ctx, cache, release)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("headers of kernel %s: %w", release, err)
	}
	return dir, nil
}

// LookupHeaders returns the folder that FetchHeaders would return without asking for it.
func LookupHeaders(cache *images.Cache, release string) (string, bool) {
	p, ok := recall(cache, headersMemo(release))
	if !ok {
		return "", false
	}
	dir, ok := cache.Lookup(images.KindTree, p.key())
	if !ok {
		return "", false
	}
	dir = existing(dir, headersFolder, p.name)
	return dir, dir != ""
}

func (a *apt) headers(ctx context.Context, cache *images.Cache, release string) (string, error) {
	name := HeadersPackage(release)
	if !packageName.MatchString(name) {
		return "", errUnknown // a kernel that was built by hand
	}
	var dir string
	find := func() (*pkg, error) { return a.show(ctx, name, "") }
	p, err := a.get(ctx, find, func(p *pkg) (err error) {
		dir, err = cache.Folder(ctx, images.KindTree, p.key(), func(dir string) error {
			return a.unpackHeaders(ctx, p, dir)
		})
		return err
	})
	if err != nil {
		return "", err
	}
	if err := remember(ctx, cache, headersMemo(release), p); err != nil {
		return "", err
	}
	return filepath.Join(dir, headersFolder, p.name), nil
}

// What headers may unpack to: Debian's are 80 MiB in 12,000 files, Ubuntu's twice that.
var headersLimits = limits{bytes: 2 << 30, entries: 200_000}

// headersPart matches the packages that headers are in.
var headersPart = regexp.MustCompile(`^(?:` + headersPrefix + `|` + kbuildPrefix + `)`)

// unpackHeaders downloads a package of headers and those that it depends on, and unpacks all of them into dir.
func (a *apt) unpackHeaders(ctx context.Context, p *pkg, dir string) error {
	x, err := newExtractor(ctx, dir, headersLimits)
	if err != nil {
		return err
	}
	defer x.Close()
	if err := a.unpackAll(ctx, p, dir, headersPart, func(deb *os.File) error { return extractHeaders(x, deb) }); err != nil {
		return err
	}
	return relocate(filepath.Join(dir, headersFolder, p.name, "Makefile"))
}

// extractHeaders writes the parts of a package that modules are built with.
func extractHeaders(x *extractor, deb io.Reader) error {
	return walkDeb(deb, func(h *tar.Header, r io.Reader) error {
		name, err := cleanName(h.Name)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(name, headersFolder) && !strings.HasPrefix(name, kbuildFolder) {
			return nil
		}
		return x.add(name, h, r)
	})
}

// installedPath matches the lines of a makefile that name folders of an installed system: another makefile to include, and since
// 7.1 the makefile's own folder.
var installedPath = regexp.MustCompile(`(?m)^(include |KBUILD_OUTPUT *:?= *)/usr/src/([0-9A-Za-z.+_/-]+)$`)

// relocate has a makefile that names folders by their paths in an installed system look for them beside its own.
func relocate(makefile string) error {
	text, err := os.ReadFile(makefile)
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("the packages have no makefile where modules are built")
	}
	if err != nil {
		return err
	}
	beside := installedPath.ReplaceAllFunc(text, func(line []byte) []byte {
		m := installedPath.FindSubmatch(line)
		what := "include "
		if !bytes.HasPrefix(m[1], []byte(what)) {
			what = "KBUILD_OUTPUT := " // at once: the list of makefiles grows
		}
		return fmt.Appendf(nil, "%s$(abspath $(dir $(lastword $(MAKEFILE_LIST)))..)/%s", what, m[2])
	})
	if info, err := os.Lstat(makefile); err != nil || !info.Mode().IsRegular() {
		return err // a link to the common part's, which includes nothing
	}
	return os.WriteFile(makefile, beside, 0o644)
}
