package mdev

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/child"
	"github.com/stile-vmm/stile/internal/hostpci"
)

// moduleName is the module's; its driver is hostpci.DonorDriver.
const moduleName = "vfio_mdev_pci"

//go:embed kmod/vfio_mdev_pci.c kmod/denylist.h kmod/Kbuild kmod/Makefile
var moduleSource embed.FS

// Module is the kernel module that wraps functions, for one kernel.
type Module struct {
	// Release is the kernel's, as uname -r has it.
	Release string
	// Headers are folders against which modules for this kernel can be built. The first
	// that is there is taken.
	Headers []string
	// Fetch returns such a folder from elsewhere, where none of Headers is there. It may be nil.
	Fetch func(ctx context.Context) (string, error)
	// Cache keeps what was built, and has the build's temporary files. Others are only looked into: what is found there gets
	// loaded into the kernel.
	Cache  *images.Cache
	Others []*images.Cache
	// Progress is told in a few words what is being done. It may be nil.
	Progress func(what string)
}

// RunningModule returns the module for the kernel that runs this program.
func RunningModule(cache *images.Cache, progress func(string)) (*Module, error) {
	release, err := runningRelease()
	if err != nil {
		return nil, err
	}
	return &Module{Release: release, Headers: []string{"/lib/modules/" + release + "/build"}, Cache: cache, Progress: progress}, nil
}

func (m *Module) progress(what string) {
	if m.Progress != nil {
		m.Progress(what)
	}
}

// Build returns the module's file, and builds it if it is not in the cache. That takes a
// few seconds.
func (m *Module) Build(ctx context.Context) (string, error) {
	prefix, err := m.prefix()
	if err != nil {
		return "", err
	}
	headers := m.headersID()
	key := prefix + cmp.Or(headers, "fetched") + moduleSuffix
	for _, cache := range append([]*images.Cache{m.Cache}, m.Others...) {
		if path, ok := lookup(cache, prefix, headers); ok {
			return path, nil
		}
	}
	path, err := m.Cache.File(ctx, images.KindModule, key, func(to *os.File) error { return m.build(ctx, to) })
	if err != nil {
		return "", fmt.Errorf("build kernel module %s for %s: %w", moduleName, m.Release, err)
	}
	return path, nil
}

const moduleSuffix = ".ko"

// lookup returns the module that was built against the headers with that ID; where none are at hand, the last one for
// the kernel's release.
func lookup(cache *images.Cache, prefix, headers string) (string, bool) {
	if headers == "" {
		return cache.Latest(images.KindModule, prefix)
	}
	return cache.Lookup(images.KindModule, prefix+headers+moduleSuffix)
}

// prefix starts the names of all modules that were built for the kernel's release.
func (m *Module) prefix() (string, error) {
	hash := sha256.New()
	err := eachSource(func(name string, text []byte) error {
		fmt.Fprintf(hash, "%s %d\n%s", name, len(text), text)
		return nil
	})
	return moduleName + "-" + m.Release + "-" + hex.EncodeToString(hash.Sum(nil)[:8]) + "-", err
}

// headersID tells kernels of the same release apart by the headers at hand, "" without: a kernel that was built again with
// another configuration takes another module.
func (m *Module) headersID() string {
	for _, dir := range m.Headers {
		if _, err := os.Stat(filepath.Join(dir, "Makefile")); err != nil {
			continue
		}
		hash := sha256.New()
		for _, name := range []string{"Module.symvers", "include/generated/autoconf.h", "include/generated/utsrelease.h"} {
			text, _ := os.ReadFile(filepath.Join(dir, name)) // some have it elsewhere
			fmt.Fprintf(hash, "%s %d\n%s", name, len(text), text)
		}
		return hex.EncodeToString(hash.Sum(nil)[:8])
	}
	return ""
}

func eachSource(fn func(name string, text []byte) error) error {
	entries, err := moduleSource.ReadDir("kmod")
	if err != nil {
		return err
	}
	for _, e := range entries {
		text, err := moduleSource.ReadFile("kmod/" + e.Name())
		if err == nil {
			err = fn(e.Name(), text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Module) build(ctx context.Context, to *os.File) error {
	if missing := missingTools(); len(missing) > 0 {
		return fmt.Errorf("%s not found: install the packages make and gcc", strings.Join(missing, " and "))
	}
	headers, err := m.headers(ctx)
	if err != nil {
		return err
	}
	if compiler := missingCompiler(headers); compiler != "" {
		return fmt.Errorf("the headers of kernel %s (%s) are for %s, which is not here: install the package %[3]s; "+
			"a kernel from another suite of the distribution needs that suite's compiler", m.Release, headers, compiler)
	}
	dir, err := m.Cache.Scratch(images.KindModule)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := eachSource(func(name string, text []byte) error { return os.WriteFile(filepath.Join(dir, name), text, 0o644) }); err != nil {
		return err
	}
	m.progress("build kernel module " + moduleName + " for " + m.Release)
	var out bytes.Buffer
	cmd := makeModule(ctx, dir, headers)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := child.RunWithCancel(cmd, syscall.SIGTERM); err != nil {
		return fmt.Errorf("make against %s: %w:\n%s", headers, err, lastLines(out.Bytes(), 15))
	}
	return copyTo(to, filepath.Join(dir, moduleName+".ko"))
}

// headers returns the first folder that has what modules are built against.
func (m *Module) headers(ctx context.Context) (string, error) {
	for _, dir := range m.Headers {
		if _, err := os.Stat(filepath.Join(dir, "Makefile")); err == nil {
			return dir, nil
		}
	}
	err := fmt.Errorf("the kernel's headers are not there (%s): %s", strings.Join(m.Headers, ", "), headersPackage("/etc/os-release", m.Release))
	if m.Fetch == nil {
		return "", err
	}
	dir, fetchErr := m.Fetch(ctx)
	if fetchErr != nil {
		return "", fmt.Errorf("%w; to fetch them failed: %w", err, fetchErr)
	}
	return dir, nil
}

func missingTools() []string {
	var missing []string
	for _, tool := range []string{"make", "gcc"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	return missing
}

var compilerVersion = regexp.MustCompile(`(?m)^CC\b.*\b(gcc-[0-9]+)$`)

// missingCompiler returns the compiler that Debian's headers name, "" when it is there or they name none.
func missingCompiler(headers string) string {
	text, err := os.ReadFile(filepath.Join(headers, ".kernelvariables"))
	if err != nil {
		return ""
	}
	named := compilerVersion.FindSubmatch(text)
	if named == nil {
		return ""
	}
	if _, err := exec.LookPath(string(named[1])); err == nil {
		return ""
	}
	return string(named[1])
}

// drainTime is how long a build that is told to end may take.
const drainTime = 5 * time.Second

// makeModule runs make without what is set for the builds of others, such as ARCH or
// MAKEFLAGS.
func makeModule(ctx context.Context, dir, headers string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "make", "-C", dir, "KDIR="+headers, "modules")
	cmd.Env = []string{"LC_ALL=C", "TMPDIR=" + dir}
	for _, name := range []string{"PATH", "HOME"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.WaitDelay = drainTime
	return cmd
}

func lastLines(out []byte, n int) []byte {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], []byte("\n"))
}

func copyTo(to *os.File, path string) error {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	_, err = io.Copy(to, from)
	return err
}

// headersPackage says what to install, by what the distribution's packages are called.
func headersPackage(osRelease, release string) string {
	text, _ := os.ReadFile(osRelease)
	var ids []string
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if key == "ID" || key == "ID_LIKE" {
			ids = append(ids, strings.Fields(strings.Trim(value, `"'`))...)
		}
	}
	for _, id := range ids {
		switch id {
		case "debian", "ubuntu":
			return "install the package linux-headers-" + release
		case "fedora", "rhel", "centos":
			return "install the package kernel-devel-" + release
		case "arch":
			return "install the package of headers for the running kernel, such as linux-headers"
		case "suse", "opensuse":
			return "install the package kernel-default-devel"
		case "alpine":
			return "install the package linux-lts-dev"
		}
	}
	return "install the package that modules for kernel " + release + " are built with"
}

// Ensure makes the module's driver appear: it loads the module that is installed, or
// else builds and loads it.
func (m *Module) Ensure(ctx context.Context) error {
	if driverLoaded() {
		return nil
	}
	if err := modprobe(moduleName); err == nil && driverLoaded() {
		return nil
	}
	path, err := m.Build(ctx)
	if err != nil {
		return err
	}
	if err := loadDependencies(m.Release); err != nil {
		return err
	}
	if err := Load(path, m.Release); err != nil {
		return err
	}
	if !driverLoaded() {
		return errors.New("the kernel module " + moduleName + " was loaded, and the driver " + hostpci.DonorDriver + " did not appear")
	}
	return nil
}

func driverLoaded() bool {
	_, err := os.Stat(pciDrivers + "/" + hostpci.DonorDriver)
	return err == nil
}
