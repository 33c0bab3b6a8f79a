package kbuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
)

// Options says which kernel is built.
type Options struct {
	// Version is the kernel's, as in the name of the distribution's source package: "6.12". "" is DefaultVersion. For the
	// lab not before 6.6.
	Version string
	// Config is what the kernel is for.
	Config Config
	// Fragment is more configuration, lines like CONFIG_NAME=y, which override stile's.
	Fragment string
	// Fresh builds with the compiler of today where the cache has a kernel that another has built.
	Fresh bool
	// Jobs is how many programs run at once, 0 for one on each CPU. It does not change what is built.
	Jobs int
	// Progress, which may be nil, is told in a few words what is being done.
	Progress func(string)
}

// DefaultVersion is the newest that was tried.
const DefaultVersion = "6.12"

// Config is one of the configurations that stile has.
type Config string

// The configurations.
const (
	Lab      Config = ""      // for the lab's nested host: KVM, VFIO, iommufd
	LabDebug Config = "debug" // the same with the kernel's own checks: KASAN, lockdep and others
	Guest    Config = "guest" // for guests: small, boots fast, everything built in
)

// Configs returns the configurations' names.
func Configs() []Config { return []Config{Lab, LabDebug, Guest} }

func (o Options) version() string {
	if o.Version == "" {
		return DefaultVersion
	}
	return o.Version
}

// layout is part of a kernel's key: it changes with what this package puts into a folder.
const layout = "1"

// prefix starts the names of all kernels that o asks for, whatever they were made from.
func (o Options) prefix() string {
	hash := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s", layout, o.fragment()))
	return "built-" + o.version() + "-" + hex.EncodeToString(hash[:8]) + "-"
}

// key names a kernel in the cache.
func (o Options) key(ctx context.Context, source string) (string, error) {
	cc, err := compiler(ctx)
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s", source, cc))
	return o.prefix() + hex.EncodeToString(hash[:4]), nil
}

// Cached returns the kernel of o that was used last, from whichever package and by whichever compiler it was
// made. It runs no program and asks no network.
func Cached(cache *images.Cache, o Options) (*distro.Kernel, bool) {
	dir, ok := cache.Latest(images.KindTree, o.prefix())
	if !ok {
		return nil, false
	}
	k, err := distro.Open(dir)
	return k, err == nil
}

// Build returns a kernel with its modules, and builds it if it is not in the cache: that takes some
// 12 minutes of a CPU and, for as long, 2 GiB in the cache's folder; 100 MiB remain. The source is the one that
// is in the cache, or else the newest that the package manager has.
func Build(ctx context.Context, cache *images.Cache, o Options) (*distro.Kernel, error) {
	if k, ok := Cached(cache, o); ok && !o.Fresh {
		return k, nil
	}
	k, err := o.build(ctx, cache)
	if err != nil {
		return nil, fmt.Errorf("build kernel %s: %w", o.version(), err)
	}
	return k, nil
}

func (o Options) build(ctx context.Context, cache *images.Cache) (*distro.Kernel, error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Jobs == 0 {
		o.Jobs = runtime.NumCPU()
	}
	if _, err := parseConfig(o.Fragment); err != nil {
		return nil, err
	}
	if err := checkTools(ctx); err != nil {
		return nil, err
	}
	source, err := distro.FetchSource(ctx, cache, o.version(), o.Progress)
	if err != nil {
		return nil, err
	}
	key, err := o.key(ctx, source.Version)
	if err != nil {
		return nil, err
	}
	dir, err := cache.Folder(ctx, images.KindTree, key, func(dir string) error {
		return o.buildIn(ctx, cache, key, source, dir)
	})
	if err != nil {
		return nil, err
	}
	return distro.Open(dir)
}

// build is a build that is under way.
type build struct {
	ctx      context.Context
	dir      string // the kernel's folder
	src      string // the source, in dir
	fragment string
	jobs     int
	log      *os.File
	progress func(string)
}

func (o Options) buildIn(ctx context.Context, cache *images.Cache, key string, source *distro.Source, dir string) error {
	b := &build{ctx: ctx, dir: dir, src: filepath.Join(dir, "src"), fragment: o.fragment(), jobs: o.Jobs, progress: o.Progress}
	var err error
	if b.log, err = os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		return err
	}
	defer b.log.Close()
	err = b.run(source)
	var failed *makeError
	if errors.As(err, &failed) {
		return b.explain(cache, key, err)
	}
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(b.src), os.Remove(b.log.Name()))
}

func (b *build) run(source *distro.Source) error {
	if err := os.Mkdir(b.src, 0o755); err != nil {
		return err
	}
	b.progress("unpack " + filepath.Base(source.Tarball))
	if err := source.Unpack(b.ctx, b.src); err != nil {
		return err
	}
	if err := b.configure(); err != nil {
		return err
	}
	start := time.Now()
	b.progress("build: about 2000 files")
	if err := b.make("-j"+strconv.Itoa(b.jobs), "bzImage", "modules"); err != nil {
		return err
	}
	b.progress(fmt.Sprintf("built in %v; install", time.Since(start).Round(time.Second)))
	return b.install()
}

// explain keeps the log of a build that failed, and adds to the error where it is and how it ends.
func (b *build) explain(cache *images.Cache, key string, err error) error {
	if _, seekErr := b.log.Seek(0, io.SeekStart); seekErr != nil {
		return errors.Join(err, seekErr)
	}
	end := tail(b.log)
	path, keepErr := cache.Replace(b.ctx, images.KindLog, key+".log", func(w *os.File) error {
		if _, err := b.log.Seek(0, io.SeekStart); err != nil {
			return err
		}
		_, err := io.Copy(w, b.log)
		return err
	})
	if keepErr != nil {
		return fmt.Errorf("%w; its log can't be kept (%w) and ends:\n%s", err, keepErr, end)
	}
	return fmt.Errorf("%w; its log is %s and ends:\n%s", err, path, end)
}
