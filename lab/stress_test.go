package lab

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/testenv"
)

// hashing hashes what is written to it.
type hashing struct {
	hash.Hash
	n int
}

func (h *hashing) Write(p []byte) (int, error) {
	h.n += len(p)
	return h.Hash.Write(p)
}

// TestBigStreams sends 100 MB through a command, in and out at once.
func TestBigStreams(t *testing.T) {
	const size = 100_000_000
	c := testConfig(t)
	in, out := sha256.New(), &hashing{Hash: sha256.New()}
	random := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
	status, err := Run(t.Context(), &Options{
		Config: *c, Args: []string{"cat"}, Env: []string{"PATH=/bin:/usr/bin"}, Stdin: io.TeeReader(random, in), Stdout: out,
	})
	if err != nil || status.ExitCode() != 0 {
		t.Fatalf("%v, %v", status, err)
	}
	if out.n != size || !bytes.Equal(in.Sum(nil), out.Sum(nil)) {
		t.Errorf("%d bytes came back of %d, or others", out.n, size)
	}
}

// TestKilledQEMU kills QEMU while a command runs.
func TestKilledQEMU(t *testing.T) {
	c := testConfig(t)
	h, err := Resume(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	_, err = h.Run(t.Context(), &Options{Args: []string{"/bin/sh", "-c", "echo ready; sleep 1000"}, Stdout: writerFunc(func([]byte) {
		syscall.Kill(h.proc.child.PID(), syscall.SIGKILL)
	})})
	if !errors.Is(err, errQEMUEnded) || !strings.Contains(err.Error(), "killed") {
		t.Errorf("%v, want QEMU's end", err)
	}
	if h.Err() == nil {
		t.Error("the host has no error")
	}
}

// mount mounts a file system in a new folder, for the test's time.
func mount(t *testing.T, source, fstype string, flags uintptr, data string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount(source, dir, fstype, flags, data); err != nil {
		testenv.Missing(t, "root", "mount: "+err.Error())
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// TestFullDisk builds a state where there is no room for it.
func TestFullDisk(t *testing.T) {
	c := *testConfig(t)
	c.Dir = mount(t, "tmpfs", "tmpfs", 0, "size=40m")
	_, err := Resume(t.Context(), &c)
	if err == nil {
		t.Fatal("a state was built")
	}
	t.Log(err)
	if left, _ := filepath.Glob(filepath.Join(c.Dir, "lab", tempPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if !errors.Is(err, errNoSpace) {
		t.Errorf("%v, want what is full", err)
	}
}

// TestReadOnlyCache resumes a state from a cache that can't be written to.
func TestReadOnlyCache(t *testing.T) {
	c := *testConfig(t)
	dir := mount(t, c.Dir, "", unix.MS_BIND, "")
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Fatalf("the cache can be written to: %v", err)
	}
	c.Dir = dir
	status, err := Run(t.Context(), &Options{Config: c, Args: []string{"/bin/sh", "-c", "exit 3"}})
	if err != nil || status.Code != 3 {
		t.Errorf("%v, %v", status, err)
	}
}

func TestCopySparse(t *testing.T) {
	const size = 8 << 20
	create := func(name string) *os.File {
		f, err := os.Create(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	from, to := create("from"), create("to")
	if err := from.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 1 << 20, size - 5} {
		if _, err := from.WriteAt([]byte("data!"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := copySparse(to, from); err != nil {
		t.Fatal(err)
	}
	want, _ := os.ReadFile(from.Name())
	if got, err := os.ReadFile(to.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v, are not a copy", len(got), err)
	}
	var st unix.Stat_t
	if err := unix.Stat(to.Name(), &st); err != nil || st.Blocks*512 > size/2 {
		t.Errorf("the copy of a sparse file has %d blocks, %v", st.Blocks, err)
	}
}
