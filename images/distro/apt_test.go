package distro

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stile-vmm/stile/images"
)

// fakeApt stands for the system's package manager: programs in the PATH that
// answer from a folder.
type fakeApt struct {
	t   testing.TB
	dir string
}

const fakeCache = `#!/bin/sh
cd "$FAKE_APT"
echo "apt-cache $*" >>calls
case "$*" in *Dir::Etc::sourcelist=*) cd suite ;; esac
for last; do :; done
case "$*" in
*pkgnames*) ls names | grep "^$last" ;;
*show*) cat "records/$last" 2>/dev/null || { echo "E: No packages found" >&2; exit 100; } ;;
esac
exit 0
`

const fakeGet = `#!/bin/sh
echo "apt-get $*" >>"$FAKE_APT/calls"
for last; do
	case $last in Dir::Etc::sourcelist=*) FAKE_APT=$FAKE_APT/suite; cat "${last#*=}" >"$FAKE_APT/sources" ;; esac
done
case "$*" in
*update) cp -r "$FAKE_APT/next/." "$FAKE_APT" ;;
*indextargets*) cat "$FAKE_APT/targets" ;;
*download*) cp "$FAKE_APT/debs/$last" "${last%%=*}.deb" 2>/dev/null || { echo "E: Failed to fetch $last  404  Not Found" >&2; exit 100; } ;;
esac
`

func newFakeApt(t testing.TB) *fakeApt {
	t.Helper()
	f := &fakeApt{t: t, dir: t.TempDir()}
	f.write("bin/apt-cache", []byte(fakeCache))
	f.write("bin/apt-get", []byte(fakeGet))
	for _, dir := range []string{"names", "records", "debs", "next", "suite/names", "suite/records", "suite/next"} {
		if err := os.MkdirAll(filepath.Join(f.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if t, ok := t.(*testing.T); ok {
		t.Setenv("FAKE_APT", f.dir)
		t.Setenv("PATH", filepath.Join(f.dir, "bin")+":"+os.Getenv("PATH"))
	}
	return f
}

func (f *fakeApt) write(path string, content []byte) {
	f.t.Helper()
	path = filepath.Join(f.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o755); err != nil {
		f.t.Fatal(err)
	}
}

// add makes a package known below where: "" for now, "next" for after an update; "suite" and "suite/next" for apts that work on
// another suite. With no deb it can't be downloaded.
func (f *fakeApt) add(where, name, version, depends string, deb []byte) {
	f.t.Helper()
	f.write(filepath.Join(where, "names", name), nil)
	for _, record := range []string{name, name + "=" + version} {
		if strings.Contains(record, "/") {
			continue
		}
		f.write(filepath.Join(where, "records", record), []byte("Package: "+name+"\nVersion: "+version+"\nDepends: "+depends+
			"\nSize: 1048577\nDescription: a\n more: b\n\nPackage: other\nVersion: 0\n"))
	}
	if deb != nil {
		f.write(filepath.Join(where, "debs", name+"="+version), deb)
	}
}

// calls returns what was called since the last time.
func (f *fakeApt) calls() []string {
	f.t.Helper()
	path := filepath.Join(f.dir, "calls")
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.t.Fatal(err)
	}
	os.Remove(path)
	return strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' })
}

func openCache(t testing.TB) *images.Cache {
	t.Helper()
	c, err := images.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testApt is apt as a user who may not update the lists of packages has it, or as root.
func testApt(t testing.TB, root bool) *apt {
	t.Helper()
	a, err := newApt(func(what string) { t.Log(what) })
	if err != nil {
		t.Fatal(err)
	}
	a.root = root
	return a
}

func wanted(t testing.TB, version string) want {
	t.Helper()
	w, err := parseWant(version)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func cachedKernels(t testing.TB, c *images.Cache) (keys []string) {
	t.Helper()
	entries, err := c.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Kind == images.KindTree {
			keys = append(keys, e.Key)
		}
	}
	unfinished, err := filepath.Glob(filepath.Join(c.Dir(), "*", ".*"))
	if err != nil || len(unfinished) > 0 {
		t.Errorf("left behind: %v, %v", unfinished, err)
	}
	slices.Sort(keys)
	return keys
}

func TestFetch(t *testing.T) {
	const release, name = "6.1.0-56-amd64", "linux-image-6.1.0-56-amd64"
	for _, ext := range []string{".xz", ".zst", ".gz", ""} {
		t.Run("data.tar"+ext, func(t *testing.T) {
			f, c := newFakeApt(t), openCache(t)
			f.add("", name, "1:6.1.192-2", "", makeDeb(t, ext, kernelEntries(release)...))
			var progress []string
			k, err := Fetch(t.Context(), c, "6.1", func(what string) { progress = append(progress, what) })
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(c.Dir(), "kernels", name+"_1%3a6.1.192-2")
			want := &Kernel{
				Image: dir + "/boot/vmlinuz-" + release, Modules: dir + "/lib/modules/" + release, Release: release,
			}
			if diff := cmp.Diff(want, k); diff != "" {
				t.Errorf("kernel (-want +got):\n%s", diff)
			}
			if images.ModulesFor(k.Image) != k.Modules {
				t.Errorf("modules for %s: %q", k.Image, images.ModulesFor(k.Image))
			}
			if _, err := os.Stat(dir + "/usr"); err == nil {
				t.Error("documentation was unpacked")
			}
			if want := []string{"download " + name + " 1:6.1.192-2 (2 MiB)", "unpack " + name + " 1:6.1.192-2"}; !slices.Equal(progress, want) {
				t.Errorf("progress %q", progress)
			}
			f.calls()
			again, err := Fetch(t.Context(), c, "6.1", nil)
			if err != nil || *again != *k {
				t.Errorf("again: %+v, %v", again, err)
			}
			if calls := f.calls(); len(calls) > 0 {
				t.Errorf("asked again: %q", calls)
			}
		})
	}
}

func TestFindImage(t *testing.T) {
	f := newFakeApt(t)
	for _, name := range []string{
		"6.1.0-9-amd64", "6.1.0-56-amd64", "6.1.0-56-amd64-dbg", "6.1.0-57-amd64-unsigned", "6.1.0-56-cloud-amd64", "6.1.0-58-rt-amd64",
		"6.12.99+deb12-amd64", "6.12.117+deb12-amd64", "6.12.117+deb12-rt-amd64", "6.12-amd64", "6.8.0-31-generic", "6.8.0-32-lowlatency",
	} {
		f.add("", imagePrefix+name, "1", "", nil)
	}
	f.write("names/linux-image-6.12.200+deb12-amd64", nil) // known only because others name it
	for version, want := range map[string]string{
		"6.1": "6.1.0-56-amd64", "6.1-cloud": "6.1.0-56-cloud-amd64", "6.1-rt": "6.1.0-58-rt-amd64",
		"6.12": "6.12.117+deb12-amd64", "6.12.99": "6.12.99+deb12-amd64", "6.8": "6.8.0-31-generic",
		"6.8-lowlatency": "6.8.0-32-lowlatency", "linux-image-6.1.0-9-amd64": "6.1.0-9-amd64", "6.2": "", "6.1-none": "", "6": "none",
		"": "none", "../x": "none", "linux-image-/x": "none", "6.1-": "none",
	} {
		w, err := parseWant(version)
		if err != nil {
			if want != "none" {
				t.Errorf("%s: %v", version, err)
			}
			continue
		}
		p, err := testApt(t, false).findImage(t.Context(), w)
		if err != nil {
			t.Errorf("%s: %v", version, err)
		}
		got := ""
		if p != nil {
			got = strings.TrimPrefix(p.name, imagePrefix)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", version, got, want)
		}
	}
}

func TestUpdate(t *testing.T) {
	f, c := newFakeApt(t), openCache(t)
	f.add("", "linux-image-6.1.0-9-amd64", "6.1.9-1", "", makeDeb(t, ".gz", kernelEntries("6.1.0-9-amd64")...))
	old, err := Fetch(t.Context(), c, "6.1", nil)
	if err != nil {
		t.Fatal(err)
	}
	f.add("", "linux-image-6.1.0-10-amd64", "6.1.10-1", "", makeDeb(t, ".gz", kernelEntries("6.1.0-10-amd64")...))
	if k, err := Fetch(t.Context(), c, "6.1", nil); err != nil || *k != *old {
		t.Errorf("a newer one was taken unasked: %+v, %v", k, err)
	}
	for range 2 {
		k, err := Update(t.Context(), c, "6.1", nil)
		if err != nil || k.Release != "6.1.0-10-amd64" {
			t.Errorf("newer one: %+v, %v", k, err)
		}
	}
	if k, ok := Lookup(c, "6.1"); !ok || k.Release != "6.1.0-10-amd64" {
		t.Errorf("looked up %+v", k)
	}
	if got := cachedKernels(t, c); len(got) != 2 {
		t.Errorf("in the cache: %q", got)
	}
}

// TestPrunedKernel fetches a kernel again that is remembered but gone.
func TestPrunedKernel(t *testing.T) {
	f, c := newFakeApt(t), openCache(t)
	f.add("", "linux-image-6.1.0-9-amd64", "6.1.9-1", "", makeDeb(t, ".gz", kernelEntries("6.1.0-9-amd64")...))
	k, err := Fetch(t.Context(), c, "6.1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Dir(filepath.Dir(k.Image))); err != nil {
		t.Fatal(err)
	}
	if _, ok := Lookup(c, "6.1"); ok {
		t.Error("what is gone was found")
	}
	if again, err := Fetch(t.Context(), c, "6.1", nil); err != nil || *again != *k {
		t.Errorf("again: %+v, %v", again, err)
	}
}

func TestLists(t *testing.T) {
	const name = "linux-image-6.1.0-9-amd64"
	deb := makeDeb(t, ".gz", kernelEntries("6.1.0-9-amd64")...)
	empty := func(f *fakeApt) { f.add("next", name, "2", "", deb) }
	old := func(f *fakeApt) { f.add("", name, "1", "", nil); f.add("next", name, "2", "", deb) }
	useless := func(f *fakeApt) { f.add("", name, "1", "", nil) }
	for _, tt := range []struct {
		name    string
		prepare func(*fakeApt)
		root    bool
		want    []string // in the error; none for no error
		updates int
	}{
		{"empty lists", empty, true, nil, 1},
		{"empty lists, not root", empty, false, []string{"no such package", "run apt-get update"}, 0},
		{"old lists", old, true, nil, 1},
		{"old lists, not root", old, false, []string{"404", "run apt-get update"}, 0},
		{"an update doesn't help", useless, true, []string{"E: Failed to fetch", "404"}, 1},
		{"no such package", func(*fakeApt) {}, true, []string{"no such package", "name a kernel's file"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, c := newFakeApt(t), openCache(t)
			tt.prepare(f)
			k, err := testApt(t, tt.root).image(t.Context(), c, wanted(t, "6.1"), imageMemo("6.1"))
			if len(tt.want) == 0 && (err != nil || k.Release != "6.1.0-9-amd64") {
				t.Errorf("%+v, %v", k, err)
			}
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want one with %q", err, want)
				}
			}
			updates := 0
			for _, call := range f.calls() {
				if strings.HasPrefix(call, "apt-get") && strings.HasSuffix(call, "update") {
					updates++
				}
				if private := strings.Contains(call, "APT::Sandbox::User=root"); private != tt.root {
					t.Errorf("root %v, called %q", tt.root, call)
				}
			}
			if updates != tt.updates {
				t.Errorf("%d updates, want %d", updates, tt.updates)
			}
			if cachedKernels(t, c); err != nil && len(cachedKernels(t, c)) > 0 {
				t.Error("a failure is in the cache")
			}
		})
	}
}

func TestBadPackages(t *testing.T) {
	const name = "linux-image-6.1.0-9-amd64"
	good := kernelEntries("6.1.0-9-amd64")
	for what, tt := range map[string]struct {
		deb  []byte
		want string
	}{
		"garbage":     {[]byte("garbage"), "not an ar archive"},
		"no kernel":   {makeDeb(t, ".gz", good[5]), "0 kernels"},
		"no modules":  {makeDeb(t, ".gz", good[4]), "no modules"},
		"two kernels": {makeDeb(t, ".gz", append(good, entry{name: "boot/vmlinuz-2", text: "x"})...), "2 kernels"},
		"hostile":     {makeDeb(t, ".gz", append(good, entry{name: "../../../out", text: "x"})...), "outside"},
		"bad link":    {makeDeb(t, ".gz", append(good, entry{name: "lib/modules/x/build", link: "/usr/src"})...), "leads out"},
	} {
		t.Run(what, func(t *testing.T) {
			f, c := newFakeApt(t), openCache(t)
			f.add("", name, "1", "", tt.deb)
			_, err := testApt(t, false).image(t.Context(), c, wanted(t, "6.1"), imageMemo("6.1"))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if got := cachedKernels(t, c); len(got) > 0 {
				t.Errorf("in the cache: %q", got)
			}
		})
	}
}

// TestBadRecords takes nothing from apt-cache that is not a version: it becomes a file's name, and an argument.
func TestBadRecords(t *testing.T) {
	for _, version := range []string{"", "../../out", "1/2", "-o=x", "1 2"} {
		f, c := newFakeApt(t), openCache(t)
		f.add("", "linux-image-6.1.0-9-amd64", version, "", nil)
		if _, err := testApt(t, true).image(t.Context(), c, wanted(t, "6.1"), imageMemo("6.1")); err == nil || !strings.Contains(err.Error(), "with version") {
			t.Errorf("version %q: error %v", version, err)
		}
	}
	for _, memo := range []string{"", "x", "../x 1", "x ../1"} {
		c := openCache(t)
		_, err := c.Replace(t.Context(), images.KindPackage, imageMemo("6.1"), func(w *os.File) error {
			_, err := w.WriteString(memo)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if k, ok := Lookup(c, "6.1"); ok {
			t.Errorf("memo %q: %+v", memo, k)
		}
	}
}

func TestNoApt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Fetch(t.Context(), openCache(t), "6.1", nil)
	if !errors.Is(err, ErrNoApt) {
		t.Errorf("error %v", err)
	}
}

func TestCancelled(t *testing.T) {
	f, c := newFakeApt(t), openCache(t)
	f.write("bin/apt-cache", []byte("#!/bin/sh\nexec sleep 60\n"))
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := Fetch(ctx, c, "6.1", nil); !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
}
