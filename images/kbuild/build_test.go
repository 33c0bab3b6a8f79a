package kbuild

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ulikunitz/xz"

	"github.com/stile-vmm/stile/images"
)

// fakeMake does what a kernel's makefiles do, as far as this package sees it. Files in the source, such as "fail",
// say how it goes.
const fakeMake = `#!/bin/sh
src=$2
for arg; do
	case $arg in
	KCONFIG_ALLCONFIG=*) fragment=${arg#*=} ;;
	INSTALL_MOD_PATH=*) dest=${arg#*=} ;;
	esac
	target=$arg
done
echo "$target" >>"$HOME/calls"
env >"$HOME/env"
case $target in
allnoconfig)
	grep -v "^$(cat "$src/drop" 2>/dev/null || echo -)=" "$fragment" >"$src/.config" ;;
modules)
	if [ -e "$src/hang" ]; then sleep 600 & echo $! >"$HOME/child"; wait; fi
	if [ -e "$src/fail" ]; then
		echo "drivers/x.c:1:1: error: boom"
		for i in $(seq 50); do echo "  CC      other$i.o"; done
		echo "make: *** failed" >&2
		exit 2
	fi
	mkdir -p "$src/arch/x86/boot" "$src/include/config" "$src/arch/x86/include/generated" "$src/scripts/mod"
	for i in $(seq 600); do echo "  CC      file$i.o"; done
	echo kernel >"$src/arch/x86/boot/bzImage"
	echo symbols >"$src/Module.symvers"
	echo object >"$src/scripts/mod/modpost.o"
	echo program >"$src/scripts/mod/modpost" && chmod +x "$src/scripts/mod/modpost"
	echo 6.12.7-stile-l1 >"$src/include/config/kernel.release" ;;
modules_install)
	mkdir -p "$dest/lib/modules/6.12.7-stile-l1/kernel/samples"
	echo module >"$dest/lib/modules/6.12.7-stile-l1/kernel/samples/mtty.ko"
	ln -s "$src" "$dest/lib/modules/6.12.7-stile-l1/build" ;;
esac
`

const fakeCompiler = `#!/bin/sh
[ "$1" = --version ] && echo "gcc (fake) $(cat "$HOME/gcc-version")"
exit 0
`

// fakes is a machine that can build kernels, with a source in its cache.
type fakes struct {
	t     *testing.T
	home  string
	cache *images.Cache
}

func newFakes(t *testing.T, sourceFiles ...string) *fakes {
	t.Helper()
	f := &fakes{t: t, home: t.TempDir()}
	f.program("make", fakeMake)
	f.program("gcc", fakeCompiler)
	for _, name := range []string{"ld", "flex", "bison", "bc", "lz4"} {
		f.program(name, "#!/bin/sh\n")
	}
	f.write("gcc-version", "1")
	t.Setenv("HOME", f.home)
	t.Setenv("PATH", filepath.Join(f.home, "bin")+":"+os.Getenv("PATH"))
	var err error
	if f.cache, err = images.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	f.source(append(sourceFiles, "Makefile", "include/linux/x.h", "arch/x86/Makefile", "arch/x86/include/asm/x.h", "scripts/x"))
	return f
}

func (f *fakes) write(name, text string) {
	f.t.Helper()
	path := filepath.Join(f.home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fakes) program(name, text string) { f.write("bin/"+name, text) }

func (f *fakes) read(name string) string {
	text, err := os.ReadFile(filepath.Join(f.home, name))
	if err != nil && !os.IsNotExist(err) {
		f.t.Fatal(err)
	}
	return string(text)
}

// source puts into the cache what package distro would: a source, and that it is the last that was fetched. A file
// named "name=text" has that text.
func (f *fakes) source(files []string) {
	f.t.Helper()
	_, err := f.cache.Replace(f.t.Context(), images.KindPackage, "source-6.12", func(w *os.File) error {
		_, err := io.WriteString(w, "linux-source-6.12 6.12.7-1\n")
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	_, err = f.cache.Replace(f.t.Context(), images.KindSource, "linux-source-6.12_6.12.7-1.tar.xz", func(w *os.File) error {
		z, err := xz.NewWriter(w)
		if err != nil {
			return err
		}
		archive := tar.NewWriter(z)
		for _, file := range files {
			name, text, _ := strings.Cut(file, "=")
			h := &tar.Header{Name: "linux-source-6.12/" + name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}
			if err := archive.WriteHeader(h); err != nil {
				return err
			}
			if _, err := io.WriteString(archive, text); err != nil {
				return err
			}
		}
		return errors.Join(archive.Close(), z.Close())
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// kernels returns the names of what is in the cache's folder of kernels, unfinished ones too.
func (f *fakes) kernels() (names []string) {
	f.t.Helper()
	entries, err := os.ReadDir(filepath.Join(f.cache.Dir(), string(images.KindTree)))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestBuild(t *testing.T) {
	f := newFakes(t)
	for _, name := range []string{"ARCH", "MAKEFLAGS", "KBUILD_OUTPUT", "CROSS_COMPILE"} {
		t.Setenv(name, "of-another-build")
	}
	var progress []string
	o := Options{Version: "6.12", Jobs: 1, Progress: func(what string) { progress = append(progress, what) }}
	if k, ok := Cached(f.cache, o); ok {
		t.Errorf("cached before it was built: %+v", k)
	}
	k, err := Build(t.Context(), f.cache, o)
	if err != nil {
		t.Fatal(err)
	}
	if k.Release != "6.12.7-stile-l1" || k.Modules == "" || k.Headers != filepath.Join(k.Modules, "build") {
		t.Errorf("kernel %+v", k)
	}
	for path, want := range map[string]bool{
		k.Image: true, k.Modules + "/kernel/samples/mtty.ko": true, k.Modules + "/source": false,
		k.Headers + "/Makefile": true, k.Headers + "/.config": true, k.Headers + "/Module.symvers": true,
		k.Headers + "/include/linux/x.h": true, k.Headers + "/arch/x86/include/asm/x.h": true, k.Headers + "/arch/x86/boot": false,
		k.Headers + "/scripts/mod/modpost": true, k.Headers + "/scripts/mod/modpost.o": false,
	} {
		info, err := os.Lstat(path)
		if (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
		if err == nil && filepath.Base(path) == "modpost" && info.Mode()&0o111 == 0 {
			t.Errorf("%s can't be executed", path)
		}
	}
	tree := filepath.Dir(filepath.Dir(k.Image))
	if left, err := os.ReadDir(tree); err != nil || len(left) != 2 {
		t.Errorf("in the kernel's folder: %v, %v", left, err)
	}
	if env := f.read("env"); strings.Contains(env, "of-another-build") {
		t.Errorf("the build's environment:\n%s", env)
	}
	if got, want := strings.Fields(f.read("calls")), []string{"allnoconfig", "modules", "modules_install"}; !slices.Equal(got, want) {
		t.Errorf("called %q", got)
	}
	if len(progress) < 5 || !strings.HasPrefix(progress[3], "build: 250 files") {
		t.Errorf("progress %q", progress)
	}
	again, err := Build(t.Context(), f.cache, o)
	if err != nil || *again != *k {
		t.Errorf("again: %+v, %v", again, err)
	}
	if calls := strings.Fields(f.read("calls")); len(calls) != 3 {
		t.Errorf("built again: %q", calls)
	}
}

// TestKey builds anew when anything differs that the kernel is made of, and not for the number of jobs.
func TestKey(t *testing.T) {
	f := newFakes(t)
	if _, err := Build(t.Context(), f.cache, Options{Version: "6.12"}); err != nil {
		t.Fatal(err)
	}
	if _, ok := Cached(f.cache, Options{Jobs: 7}); !ok {
		t.Error("another number of jobs is another kernel")
	}
	for name, o := range map[string]Options{
		"debug": {Version: "6.12", Config: LabDebug}, "guest": {Version: "6.12", Config: Guest}, "fragment": {Version: "6.12", Fragment: "CONFIG_X=y\n"}, "version": {Version: "6.13"},
	} {
		if _, ok := Cached(f.cache, o); ok {
			t.Errorf("another %s is the same kernel", name)
		}
	}
	f.write("gcc-version", "2")
	before, ok := Cached(f.cache, Options{Version: "6.12"})
	if !ok {
		t.Error("a new compiler makes the kernel unusable")
	}
	if after, err := Build(t.Context(), f.cache, Options{Fresh: true}); err != nil || after.Image == before.Image {
		t.Errorf("another compiler is the same kernel, %v", err)
	}
}

func TestBuildFails(t *testing.T) {
	f := newFakes(t, "fail")
	_, err := Build(t.Context(), f.cache, Options{Version: "6.12"})
	if err == nil {
		t.Fatal("built")
	}
	for _, want := range []string{"make modules: exit status 2", "error: boom\n…\n", "make: *** failed"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error without %q: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "other10.o") {
		t.Errorf("the whole log is in the error: %v", err)
	}
	_, rest, _ := strings.Cut(err.Error(), "its log is ")
	path, _, _ := strings.Cut(rest, " and ends")
	if log, err := os.ReadFile(path); err != nil || !strings.Contains(string(log), "other10.o") {
		t.Errorf("log %s: %.100q, %v", path, log, err)
	}
	if left := f.kernels(); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

func TestBuildWithLostConfig(t *testing.T) {
	f := newFakes(t, "drop=CONFIG_IOMMUFD")
	_, err := Build(t.Context(), f.cache, Options{Version: "6.12"})
	if err == nil || !strings.Contains(err.Error(), "has no CONFIG_IOMMUFD=y:") {
		t.Errorf("error %v", err)
	}
	if left := f.kernels(); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

func TestBadFragment(t *testing.T) {
	_, err := Build(t.Context(), newFakes(t).cache, Options{Version: "6.12", Fragment: "IOMMUFD=y\n"})
	if err == nil || !strings.Contains(err.Error(), `"IOMMUFD=y"`) {
		t.Errorf("error %v", err)
	}
}

func TestMissingTools(t *testing.T) {
	f := newFakes(t)
	t.Setenv("PATH", filepath.Join(f.home, "bin"))
	f.program("gcc", "#!/bin/sh\nread -r line\ncase $line in *gelf.h*) exit 1 ;; esac\n")
	for _, name := range []string{"bison", "lz4"} {
		if err := os.Remove(filepath.Join(f.home, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Build(t.Context(), f.cache, Options{Version: "6.12"})
	if err == nil || !strings.HasSuffix(err.Error(), "apt-get install bison lz4 libelf-dev") {
		t.Errorf("error %v", err)
	}
	if err := os.RemoveAll(filepath.Join(f.home, "bin")); err != nil {
		t.Fatal(err)
	}
	if got := Missing(t.Context()); len(got) != len(tools)+2 {
		t.Errorf("with no tools at all: %q", got)
	}
}

// TestCancel ends a build with all its processes.
func TestCancel(t *testing.T) {
	f := newFakes(t, "hang")
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	o := Options{Version: "6.12", Progress: func(what string) {}}
	done := make(chan error, 1)
	go func() {
		_, err := Build(ctx, f.cache, o)
		done <- err
	}()
	var child int
	for child == 0 {
		select {
		case err := <-done:
			t.Fatalf("ended before it was told to: %v", err)
		default:
			time.Sleep(time.Millisecond)
			child, _ = strconv.Atoi(strings.TrimSpace(f.read("child")))
		}
	}
	cancel(cause)
	if err := <-done; !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
	for running(child) {
		time.Sleep(time.Millisecond) // it was told to end, and may still be at it
	}
	if left := f.kernels(); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

// running tells whether a process is there and no zombie.
func running(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
