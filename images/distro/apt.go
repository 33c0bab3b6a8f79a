package distro

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/stile-vmm/stile/internal/child"
	"github.com/stile-vmm/stile/internal/trust"
)

// ErrNoApt says that this system's packages can't be had with apt-get.
var ErrNoApt = errors.New("no apt-get here to fetch a kernel's package with: " +
	"name a kernel's file and the folder of its modules, or take the running host's own")

// apt runs apt-get and apt-cache.
type apt struct {
	progress func(string)
	root     bool     // apt-get may be asked to update the lists of packages
	updated  bool     // it was, by this run
	suite    string   // the one whose packages it knows, "" for those of this system's sources
	options  []string // for that
}

// withApt calls use with an apt that knows the packages of a suite.
func withApt(ctx context.Context, suite string, progress func(string), use func(*apt) error) error {
	a, err := newApt(progress)
	if err != nil {
		return err
	}
	if suite == "" {
		return use(a)
	}
	dir, err := os.MkdirTemp(trust.TempDir(), "stile-apt-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := a.useSuite(ctx, suite, dir); err != nil {
		return err
	}
	return use(a)
}

func newApt(progress func(string)) (*apt, error) {
	for _, program := range []string{"apt-get", "apt-cache"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, ErrNoApt
		}
	}
	if progress == nil {
		progress = func(string) {}
	}
	return &apt{progress: progress, root: os.Geteuid() == 0}, nil
}

// pkg is a package that can be downloaded.
type pkg struct {
	name    string
	version string
	depends [][]dependency // what it needs, each with its alternatives
	suite   string         // where it is from, "" for this system's own sources
	size    int64          // of its file, in bytes; 0 when not known
}

var (
	packageName    = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]+$`)   // Debian policy 5.6.7
	packageVersion = regexp.MustCompile(`^[0-9][0-9A-Za-z.+:~-]*$`) // Debian policy 5.6.12
)

// key is the package's name in the cache. In names of files, apt too writes an epoch's colon as %3a.
func (p *pkg) key() string { return p.name + "_" + strings.ReplaceAll(p.version, ":", "%3a") }

func (p *pkg) String() string { return p.name + " " + p.version }

// stopTime is how long a program that is told to end may take.
const stopTime = 5 * time.Second

// run runs a program in dir and returns what it prints. What it says on stderr is in the error.
func (a *apt) run(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	if a.root {
		// apt would give up its privileges, and warn that it can't in a folder that is private.
		args = append([]string{"-o", "APT::Sandbox::User=root"}, args...)
	}
	args = append(slices.Clone(a.options), args...)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(a.environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.WaitDelay = stopTime
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := child.RunWithCancel(cmd, syscall.SIGINT)
	if err == nil {
		return stdout.Bytes(), nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if said := strings.TrimSpace(stderr.String()); said != "" {
		return nil, fmt.Errorf("%s: %w: %s", program, err, said)
	}
	return nil, fmt.Errorf("%s: %w", program, err)
}

// environ is this process's environment; for root without what has apt run programs that another user chose.
func (a *apt) environ() []string {
	env := os.Environ()
	if !a.root {
		return env
	}
	env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, "APT_CONFIG=") || strings.HasPrefix(e, "TMPDIR=") })
	return append(env, "TMPDIR="+trust.TempDir())
}

// update has apt fetch the lists of packages, at most once.
func (a *apt) update(ctx context.Context) error {
	if a.updated {
		return nil
	}
	if !a.root && a.suite == "" {
		return errors.New("the lists of packages are missing or old, and only root may update them: run apt-get update")
	}
	a.progress(strings.TrimSpace("update the lists of packages " + a.suite))
	if _, err := a.run(ctx, "", "apt-get", "-qq", "update"); err != nil {
		return fmt.Errorf("update the lists of packages: %w", err)
	}
	a.updated = true
	return nil
}

// names returns the names of the known packages that start with prefix.
func (a *apt) names(ctx context.Context, prefix string) ([]string, error) {
	out, err := a.run(ctx, "", "apt-cache", "pkgnames", prefix)
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// show returns a version of a package, the newest for "". It returns nil when the package has none: apt also knows the
// names of those that others only mention.
func (a *apt) show(ctx context.Context, name, version string) (*pkg, error) {
	named := name
	if version != "" {
		named += "=" + version
	}
	out, err := a.run(ctx, "", "apt-cache", "--no-all-versions", "show", named)
	if err != nil && strings.Contains(err.Error(), "No packages found") {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", name, err)
	}
	p, err := parsePackage(name, out)
	if err != nil {
		return nil, err
	}
	p.suite = a.suite
	return p, nil
}

// parsePackage reads the first record of what apt-cache shows (deb-control(5)).
func parsePackage(name string, record []byte) (*pkg, error) {
	p := &pkg{name: name}
	for line := range strings.Lines(string(record)) {
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch {
		case strings.TrimSpace(line) == "":
			return p.check()
		case field == "Version":
			p.version = value
		case field == "Size":
			p.size, _ = strconv.ParseInt(value, 10, 64)
		case field == "Depends":
			p.depends = parseDepends(value)
		}
	}
	return p.check()
}

func (p *pkg) check() (*pkg, error) {
	if !packageName.MatchString(p.name) || !packageVersion.MatchString(p.version) {
		return nil, fmt.Errorf("apt-cache names package %q with version %q", p.name, p.version)
	}
	return p, nil
}

// download fetches a package into dir, which must hold no other, and opens it.
func (a *apt) download(ctx context.Context, p *pkg, dir string) (*os.File, error) {
	a.progress("download " + p.String() + sizeNote(p.size))
	if _, err := a.run(ctx, dir, "apt-get", "-qq", "download", p.name+"="+p.version); err != nil {
		return nil, &downloadError{fmt.Errorf("download %s: %w", p, err)}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		return nil, fmt.Errorf("download %s: apt-get left %d packages", p, len(files))
	}
	return os.Open(files[0])
}

// downloadError is a failed download: it may help to update the lists, which may be so old that they name a
// package that is gone.
type downloadError struct{ error }

func (e *downloadError) Unwrap() error { return e.error }

func sizeNote(size int64) string {
	if size == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d MiB)", (size+1<<20-1)>>20)
}

// unpack downloads a package into a folder in dir, for as long as extract works on it.
func (a *apt) unpack(ctx context.Context, p *pkg, dir string, extract func(deb *os.File) error) error {
	packed, err := os.MkdirTemp(dir, ".deb-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(packed)
	f, err := a.download(ctx, p, packed)
	if err != nil {
		return err
	}
	defer f.Close()
	a.progress("unpack " + p.String())
	if err := extract(f); err != nil {
		return fmt.Errorf("unpack %s: %w", p, err)
	}
	return nil
}
