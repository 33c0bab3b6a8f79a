package distro

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/stile-vmm/stile/images"
)

// Kernel is a kernel and its modules, in files that belong to somebody else: the cache, or the system.
type Kernel struct {
	// Image is the kernel's file: a bzImage, or whatever package boot takes.
	Image string
	// Modules is the kernel's lib/modules/RELEASE folder, "" for a kernel without.
	Modules string
	// Headers is the folder against which modules for this kernel can be built, "" when there is none.
	Headers string
	// Release is what uname -r says in it, "" when that is not known.
	Release string
}

// Fetch returns a packaged kernel: the one in the cache if there is one for this version, else the newest that
// the system's package manager has. version is "6.1", "6.12", with a flavour "6.1-cloud", or the name of a
// package, "linux-image-6.1.0-56-amd64"; "debian:" or "ubuntu:" may stand before it, and behind it the suite of the
// distribution that it is to come from, if this system does not use that one: "7.2@sid". progress, which may be nil, is
// told in a few words what is being done.
func Fetch(ctx context.Context, cache *images.Cache, version string, progress func(string)) (*Kernel, error) {
	if k, ok := Lookup(cache, version); ok {
		return k, nil
	}
	return Update(ctx, cache, version, progress)
}

// Lookup returns the kernel that Fetch would return without asking for it.
func Lookup(cache *images.Cache, version string) (*Kernel, bool) {
	p, ok := recall(cache, imageMemo(version))
	if !ok {
		return nil, false
	}
	dir, ok := cache.Lookup(images.KindTree, p.key())
	if !ok {
		return nil, false
	}
	k, err := Open(dir)
	return k, err == nil
}

// Update is Fetch that asks whether there is a newer package. One that is superseded stays in the cache until it is pruned.
func Update(ctx context.Context, cache *images.Cache, version string, progress func(string)) (*Kernel, error) {
	want, err := parseWant(version)
	if err != nil {
		return nil, err
	}
	var k *Kernel
	err = withApt(ctx, want.suite, progress, func(a *apt) (err error) {
		k, err = a.image(ctx, cache, want, imageMemo(version))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", version, err)
	}
	return k, nil
}

// image returns the newest kernel that apt has, from the cache if it is there, and remembers it as memo.
func (a *apt) image(ctx context.Context, cache *images.Cache, want want, memo string) (*Kernel, error) {
	var dir string
	find := func() (*pkg, error) { return a.findImage(ctx, want) }
	p, err := a.get(ctx, find, func(p *pkg) (err error) {
		dir, err = cache.Folder(ctx, images.KindTree, p.key(), func(dir string) error {
			return a.unpackImage(ctx, p, dir)
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	k, err := Open(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: remove the folder, somebody has changed it", err)
	}
	if err := remember(ctx, cache, memo, p); err != nil {
		return nil, err
	}
	return k, remember(ctx, cache, releaseMemo(k.Release), p)
}

// get finds a package and hands it to use. It updates the lists of packages when they have no such package, or name
// one that can't be downloaded any more.
func (a *apt) get(ctx context.Context, find func() (*pkg, error), use func(*pkg) error) (*pkg, error) {
	p, err := try(find, use)
	var failed *downloadError
	if !errors.Is(err, errUnknown) && !errors.As(err, &failed) {
		return p, err
	}
	if updateErr := a.update(ctx); updateErr != nil {
		return nil, fmt.Errorf("%w; %w", err, updateErr)
	}
	p, err = try(find, use)
	if errors.Is(err, errUnknown) && a.suite != "" {
		return nil, fmt.Errorf("suite %s of the distribution has no such package", a.suite)
	}
	if errors.Is(err, errUnknown) {
		return nil, fmt.Errorf("%w (apt-cache pkgnames linux-image shows what there is); "+
			"or name a kernel's file and the folder of its modules, or another suite of the distribution, as in 7.2@sid", err)
	}
	return p, err
}

var errUnknown = errors.New("the system's package sources have no such package")

func try(find func() (*pkg, error), use func(*pkg) error) (*pkg, error) {
	p, err := find()
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, errUnknown
	}
	return p, use(p)
}

// want is a version as a user names it: a package's name, or the start of a release with a flavour.
type want struct {
	suite   string
	name    string
	release *regexp.Regexp // matches packages' names; its first group is the release
	prefix  string         // what these names start with
}

var wantVersion = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)+)(?:-([a-z][a-z0-9]*))?$`)

const imagePrefix = "linux-image-"

// imagePart matches the packages that a kernel is in. Ubuntu has its modules in one of their own; Debian has, since 2026,
// the kernel's file, its modules, and what is known of both in one each. The first number of a release tells them from others.
var imagePart = regexp.MustCompile(`^linux-(?:image|binary|modules|base)-(?:unsigned-)?[0-9]`)

func parseWant(named string) (want, error) {
	version, suite, err := splitSuite(named)
	if err != nil {
		return want{}, err
	}
	if strings.HasPrefix(version, imagePrefix) && packageName.MatchString(version) {
		return want{suite: suite, name: version}, nil
	}
	m := wantVersion.FindStringSubmatch(version)
	if m == nil {
		return want{}, fmt.Errorf("invalid kernel version %q: expected one such as 6.12, 6.12-cloud, 7.2@sid or %s6.12.30-amd64", named, imagePrefix)
	}
	flavours := "amd64|generic" // Debian's and Ubuntu's for everybody
	if m[2] != "" {
		flavours = fmt.Sprintf("%s-amd64|%[1]s", m[2])
	}
	// Packages whose names end otherwise are not signed, or hold debug symbols.
	release := fmt.Sprintf(`^%s(%s(?:[.+][0-9a-z.+~]*)?(?:-[0-9]+)?)-(?:%s)$`, imagePrefix, regexp.QuoteMeta(m[1]), flavours)
	return want{suite: suite, release: regexp.MustCompile(release), prefix: imagePrefix + m[1]}, nil
}

// maxOlder is how many packages are asked for, the newest first, before none is found to have a version.
const maxOlder = 4

// findImage returns the newest package that is wanted, nil when there is none.
func (a *apt) findImage(ctx context.Context, w want) (*pkg, error) {
	if w.name != "" {
		return a.show(ctx, w.name, "")
	}
	known, err := a.names(ctx, w.prefix)
	if err != nil {
		return nil, err
	}
	known = slices.DeleteFunc(known, func(name string) bool { return !w.release.MatchString(name) })
	slices.SortFunc(known, func(a, b string) int {
		return compareReleases(w.release.FindStringSubmatch(b)[1], w.release.FindStringSubmatch(a)[1])
	})
	for _, name := range known[:min(len(known), maxOlder)] {
		if p, err := a.show(ctx, name, ""); p != nil || err != nil {
			return p, err
		}
	}
	return nil, nil
}

// compareReleases orders kernel releases: numbers by value, all else as text.
func compareReleases(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int { return len(s) - len(strings.TrimLeft(s, "0123456789")) }

// What a kernel with all its modules may unpack to: Debian's is 0.4 GiB in 4,500 files.
var imageLimits = limits{bytes: 4 << 30, entries: 100_000}

// unpackImage downloads a package, and those of its parts that are in others, and unpacks them into dir.
func (a *apt) unpackImage(ctx context.Context, p *pkg, dir string) error {
	x, err := newExtractor(ctx, dir, imageLimits)
	if err != nil {
		return err
	}
	defer x.Close()
	if err := a.unpackAll(ctx, p, dir, imagePart, func(deb *os.File) error { return extractImage(x, deb) }); err != nil {
		return err
	}
	k, err := Open(dir)
	if err == nil && k.Modules == "" {
		err = errors.New("it has no modules")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	return nil
}

// extractImage writes the parts of a kernel's package that are of use.
func extractImage(x *extractor, deb io.Reader) error {
	return walkDeb(deb, func(h *tar.Header, r io.Reader) error {
		name, err := cleanName(h.Name)
		if err != nil {
			return err
		}
		name = strings.TrimPrefix(name, "usr/") // where /lib is a link to /usr/lib
		for _, wanted := range []string{"boot/vmlinuz-", "boot/config-", "lib/modules/"} {
			if strings.HasPrefix(name, wanted) {
				return x.add(name, h, r)
			}
		}
		return nil
	})
}
