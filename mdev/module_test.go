package mdev

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images"
)

// fakeMake stands for make and the kernel's makefiles: it notes that it ran, and fails if the headers say so.
const fakeMake = `#!/bin/sh
echo "$@" >> "$HOME/calls"
env > "$HOME/env"
[ "$1" = -C ] || exit 3
case $3 in KDIR=*) headers=${3#KDIR=} ;; esac
if [ -e "$headers/broken" ]; then
	for i in $(seq 40); do echo "line $i"; done
	echo "vfio_mdev_pci.c:1:1: error: boom"
	exit 2
fi
cat "$2/vfio_mdev_pci.c" > "$2/vfio_mdev_pci.ko"
`

func program(t *testing.T, home, name, text string) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Join(home, "bin"), 0o755))
	check(t, os.WriteFile(filepath.Join(home, "bin", name), []byte(text), 0o755))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBuildModule(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("ARCH", "of-another-build")
	t.Setenv("PATH", filepath.Join(home, "bin")+":"+os.Getenv("PATH"))
	program(t, home, "make", fakeMake)
	program(t, home, "gcc", "#!/bin/sh\n")
	cache, err := images.Open(filepath.Join(home, "cache"))
	check(t, err)
	headers := filepath.Join(home, "headers")
	var told []string
	m := &Module{Release: "6.12.1", Headers: []string{"/nowhere", headers}, Cache: cache, Progress: func(what string) { told = append(told, what) }}
	if _, err := m.Build(t.Context()); err == nil || !strings.Contains(err.Error(), "headers are not there (/nowhere, "+headers) || !strings.Contains(err.Error(), "install the package") {
		t.Errorf("without headers: %v", err)
	}
	check(t, os.Mkdir(headers, 0o755))
	check(t, os.WriteFile(filepath.Join(headers, "Makefile"), nil, 0o644))
	check(t, os.WriteFile(filepath.Join(headers, "broken"), nil, 0o644))
	_, err = m.Build(t.Context())
	if err == nil || !strings.Contains(err.Error(), "error: boom") || strings.Contains(err.Error(), "line 20\n") {
		t.Errorf("broken: %v", err)
	}
	check(t, os.Remove(filepath.Join(headers, "broken")))
	var paths []string
	for range 2 {
		path, err := m.Build(t.Context())
		check(t, err)
		paths = append(paths, path)
	}
	source, err := moduleSource.ReadFile("kmod/vfio_mdev_pci.c")
	check(t, err)
	if built, err := os.ReadFile(paths[0]); err != nil || string(built) != string(source) || paths[0] != paths[1] {
		t.Errorf("built %q: %d bytes, %v", paths, len(built), err)
	}
	calls, _ := os.ReadFile(filepath.Join(home, "calls"))
	env, _ := os.ReadFile(filepath.Join(home, "env"))
	built := "-C " + cache.Dir() + "/" // not in a folder for temporary files, which the environment may name
	if strings.Count(string(calls), built) != 2 || !strings.Contains(string(env), "TMPDIR="+cache.Dir()+"/") {
		t.Errorf("built outside of the cache: %s\n%s", calls, env)
	}
	if strings.Count(string(calls), "\n") != 2 || len(told) != 2 || strings.Contains(string(env), "of-another-build") {
		t.Errorf("calls %q, told %q, environment:\n%s", calls, told, env)
	}
	other := *m
	other.Release = "6.12.2"
	path, err := other.Build(t.Context())
	check(t, err)
	if path == paths[0] {
		t.Error("two kernels share a module")
	}
	check(t, os.WriteFile(filepath.Join(headers, "Module.symvers"), []byte("0x1 printk\n"), 0o644))
	if path, err = m.Build(t.Context()); err != nil || path == paths[0] {
		t.Errorf("a kernel that was built again has the module of the first, %v", err)
	}
	check(t, os.Remove(filepath.Join(headers, "Module.symvers")))
	fresh, err := images.Open(filepath.Join(home, "fresh"))
	check(t, err)
	nested := Module{Release: m.Release, Cache: fresh, Others: []*images.Cache{cache}}
	if found, err := nested.Build(t.Context()); err != nil || found != path {
		t.Errorf("in another cache: %q, %v", path, err)
	}
	fetched := Module{Release: "6.12.4", Headers: []string{"/nowhere"}, Cache: cache}
	fetched.Fetch = func(context.Context) (string, error) { return "", errors.New("no network") }
	if _, err := fetched.Build(t.Context()); err == nil || !strings.Contains(err.Error(), "install the package") || !strings.Contains(err.Error(), "no network") {
		t.Errorf("headers that can't be fetched: %v", err)
	}
	fetched.Fetch = func(context.Context) (string, error) { return headers, nil }
	_, err = fetched.Build(t.Context())
	check(t, err)
	check(t, os.Remove(filepath.Join(home, "bin", "gcc")))
	t.Setenv("PATH", filepath.Join(home, "bin"))
	other.Release = "6.12.3"
	if _, err := other.Build(t.Context()); err == nil || !strings.Contains(err.Error(), "gcc not found") {
		t.Errorf("without compiler: %v", err)
	}
}

func TestMissingCompiler(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", filepath.Join(dir, "bin"))
	program(t, dir, "gcc-12", "#!/bin/sh\n")
	for variables, want := range map[string]string{
		"": "", "CC = gcc\n": "", "CC = $(if $(X),$(CCACHE)) $(CROSS_COMPILE)gcc-12\n": "",
		"CCACHE = ccache\nCC = $(if $(X),$(CCACHE)) $(CROSS_COMPILE)gcc-16\nARCH = x86\n": "gcc-16",
	} {
		check(t, os.WriteFile(filepath.Join(dir, ".kernelvariables"), []byte(variables), 0o644))
		if got := missingCompiler(dir); got != want {
			t.Errorf("%q: %q, want %q", variables, got, want)
		}
	}
	cache, err := images.Open(filepath.Join(dir, "cache"))
	check(t, err)
	program(t, dir, "make", fakeMake)
	program(t, dir, "gcc", "#!/bin/sh\n")
	check(t, os.WriteFile(filepath.Join(dir, "Makefile"), nil, 0o644))
	check(t, os.WriteFile(filepath.Join(dir, ".kernelvariables"), []byte("CC = gcc-16\n"), 0o644))
	m := &Module{Release: "7.2", Headers: []string{dir}, Cache: cache, Progress: func(string) {}}
	if _, err := m.Build(t.Context()); err == nil || !strings.Contains(err.Error(), "install the package gcc-16") {
		t.Errorf("error %v", err)
	}
}

func TestHeadersPackage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "os-release")
	for text, want := range map[string]string{
		"ID=debian\n":                             "linux-headers-6.1",
		"ID=neon\nID_LIKE=\"ubuntu debian\"\n":    "linux-headers-6.1",
		"ID=\"rocky\"\nID_LIKE='rhel centos'\n":   "kernel-devel-6.1",
		"ID=arch\n":                               "linux-headers",
		"ID=opensuse-leap\nID_LIKE=\"suse open\"": "kernel-default-devel",
		"ID=alpine\n":                             "linux-lts-dev",
		"ID=other":                                "modules for kernel 6.1",
		"":                                        "modules for kernel 6.1",
	} {
		check(t, os.WriteFile(path, []byte(text), 0o600))
		if got := headersPackage(path, "6.1"); !strings.Contains(got, want) {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestLockdown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lockdown")
	for text, want := range map[string]string{
		"[none] integrity confidentiality\n": "", "none [integrity] confidentiality\n": "integrity",
		"none integrity [confidentiality]": "confidentiality", "": "", "[": "",
	} {
		check(t, os.WriteFile(path, []byte(text), 0o600))
		if got := lockdown(path); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	if got := lockdown(path + "x"); got != "" {
		t.Errorf("without file: %q", got)
	}
}

func TestLoadErrors(t *testing.T) {
	for name, test := range map[string]struct {
		e    loadError
		want string
	}{
		"unsigned":        {loadError{err: unix.EKEYREJECTED}, "only signed modules"},
		"no key":          {loadError{err: unix.ENOKEY}, "only signed modules"},
		"locked down":     {loadError{err: unix.EPERM, lockdown: "integrity", root: true}, "locked down (integrity"},
		"no root":         {loadError{err: unix.EPERM}, "needs root"},
		"container":       {loadError{err: unix.EPERM, root: true}, "CAP_SYS_MODULE"},
		"other kernel":    {loadError{err: unix.ENOEXEC, magic: "6.0.0 SMP"}, "it was built for kernel 6.0.0, and 6.1.0 runs"},
		"other build":     {loadError{err: unix.ENOEXEC}, "not those of the running kernel"},
		"missing symbols": {loadError{err: unix.ENOENT}, "CONFIG_VFIO_MDEV"},
		"other":           {loadError{err: unix.ENOMEM}, "dmesg"},
	} {
		test.e.path, test.e.release = "/x.ko", "6.1.0"
		if test.e.magic == "" {
			test.e.magic = "6.1.0 SMP"
		}
		if text := test.e.Error(); !strings.Contains(text, test.want) || !strings.Contains(text, "/x.ko") || !errors.Is(&test.e, test.e.err) {
			t.Errorf("%s: %s", name, text)
		}
	}
}
