package lab

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/testenv"
)

// tmpfs returns a folder whose files are in memory, or skips the test.
func tmpfs(t *testing.T) string {
	t.Helper()
	const where = "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(where, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		testenv.Missing(t, "tmpfs", where+" is not a tmpfs")
	}
	dir, err := os.MkdirTemp(where, "stile-test-")
	if err != nil {
		testenv.Missing(t, "tmpfs", err.Error())
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func blocksOf(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// sparseFile makes a file of size bytes with some data in its middle.
func sparseFile(t *testing.T, path string, size int64) {
	t.Helper()
	if err := makeSparse(path, size); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("data"), size/2)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestMemoryIsCopiedWhereHolesFill gives QEMU a copy on tmpfs, and the file itself elsewhere.
func TestMemoryIsCopiedWhereHolesFill(t *testing.T) {
	for name, tt := range map[string]struct {
		dir  string
		copy bool
	}{
		"disk":  {t.TempDir(), fillsHoles(os.TempDir())},
		"tmpfs": {tmpfs(t), true},
	} {
		path := filepath.Join(tt.dir, ramFile)
		sparseFile(t, path, 64*MiB)
		before := blocksOf(t, path)
		var m media
		b := backend{ram: path}
		if err := m.useRAM(&b); err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if copied := b.ram != path; copied != tt.copy || b.shared != copied {
			t.Errorf("%s: QEMU gets %s, shared %v; want a copy %v", name, b.ram, b.shared, tt.copy)
		}
		if after := blocksOf(t, path); after != before {
			t.Errorf("%s: %d bytes became %d", name, before, after)
		}
		if len(m.files) == 0 {
			continue
		}
		content := make([]byte, 4)
		if _, err := m.files[0].ReadAt(content, 32*MiB); err != nil || string(content) != "data" {
			t.Errorf("%s: the copy has %q, %v", name, content, err)
		}
		if b := (backend{ram: path, shared: true}); errors.Join(m.useRAM(&b)) != nil || b.ram != path {
			t.Errorf("%s: what is being built goes to %s", name, b.ram)
		}
	}
}

// TestProbeHole looks at file systems as they are, and at an overlay on tmpfs, as live systems have it.
func TestProbeHole(t *testing.T) {
	if !probeHole(tmpfs(t)) {
		t.Error("tmpfs keeps holes")
	}
	if dir := t.TempDir(); probeHole(dir) != fillsHoles(dir) {
		t.Errorf("of %s, the probe says that it fills holes: %v", dir, probeHole(dir))
	}
	memory, lower := mount(t, "none", "tmpfs", 0, "size=1m"), t.TempDir()
	upper, work := filepath.Join(memory, "upper"), filepath.Join(memory, "work")
	if err := errors.Join(os.Mkdir(upper, 0o700), os.Mkdir(work, 0o700)); err != nil {
		t.Fatal(err)
	}
	overlay := mount(t, "none", "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work)
	if !fillsHoles(overlay) {
		t.Error("an overlay on tmpfs keeps holes")
	}
	if left, err := os.ReadDir(overlay); err != nil || len(left) > 0 {
		t.Errorf("the probe left %v, %v", left, err)
	}
}

// TestHolesAreDug gives back what has nothing but zeros, and nothing else.
func TestHolesAreDug(t *testing.T) {
	for _, dir := range []string{t.TempDir(), tmpfs(t)} {
		f, err := os.Create(filepath.Join(dir, ramFile))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		want := make([]byte, 4*MiB)
		for i := range 5 {
			want[1*MiB+100+i*4*digStep] = 1
		}
		if _, err := f.Write(want); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(digHoles(f), f.Sync()); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("in %s the content has changed, %v", dir, err)
		}
		if n := blocksOf(t, f.Name()); n == 0 || n > 2*5*digStep {
			t.Errorf("in %s the file takes %d bytes", dir, n)
		}
	}
}

// TestSpaceIsChecked refuses to build where a state has no room, before there is anything of it.
func TestSpaceIsChecked(t *testing.T) {
	if envCache != images.EnvCache {
		t.Errorf("the cache's folder is set by %s", images.EnvCache)
	}
	s := testStore(t)
	if err := s.checkSpace(1 << 60); !errors.Is(err, errNoSpace) || !strings.Contains(err.Error(), images.EnvCache) ||
		!strings.Contains(err.Error(), "stile image prune") || !strings.Contains(err.Error(), s.dir) {
		t.Errorf("a state without end: %v", err)
	}
	if err := s.checkSpace(-64 * 352 * MiB); err != nil {
		t.Errorf("a state of nothing: %v", err)
	}
	small, err := OpenStore(filepath.Join(mount(t, "none", "tmpfs", 0, "size=64m"), "lab"))
	if err != nil {
		t.Fatal(err)
	}
	p := &plan{store: small, machine: Machine{Mem: MinMem}, key: testKey, progress: t.Logf}
	if _, err := p.state(t.Context(), ""); !errors.Is(err, errNoSpace) {
		t.Errorf("a state of 2 GiB in 64 MiB: %v", err)
	}
}

// TestHolesStay runs twice on a state in a tmpfs.
func TestHolesStay(t *testing.T) {
	c := *testConfig(t)
	p, err := c.plan()
	if err != nil {
		t.Fatal(err)
	}
	dir := tmpfs(t)
	copyState(t, filepath.Join(p.store.dir, p.key), filepath.Join(dir, "lab", p.key))
	c.Dir = dir
	ram := filepath.Join(dir, "lab", p.key, ramFile)
	before := blocksOf(t, ram)
	t.Logf("%d MiB", before/MiB)
	for range 2 {
		status, err := Run(t.Context(), &Options{
			Config: c, Args: []string{"/bin/sh", "-c", "head -c 300M /dev/zero > /run/file && sync && exit 7"},
		})
		if err != nil || status.Code != 7 {
			t.Fatalf("%v, %v", status, err)
		}
	}
	if after := blocksOf(t, ram); after != before {
		t.Errorf("memory of %d MiB became %d MiB", before/MiB, after/MiB)
	}
	states, err := os.ReadDir(filepath.Join(dir, "lab"))
	if err != nil || len(states) != 2 { // and the empty folder
		t.Errorf("%v, %v: the state was built again", states, err)
	}
}

// copyState copies a state with its times and its holes.
func copyState(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.Create(target)
		if err != nil {
			return err
		}
		info, err := in.Stat()
		return errors.Join(err, copySparse(out, in), out.Close(), os.Chtimes(target, info.ModTime(), info.ModTime()))
	})
	if err != nil {
		t.Fatal(err)
	}
}
