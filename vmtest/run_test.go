package vmtest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/vmtest"
)

// TestRun: what a function in the guest does to its test happens to the test here.
func TestRun(t *testing.T) {
	t.Run("function", func(t *testing.T) {
		vmtest.RunShared(t, vmtest.Config{}, func(t *testing.T) {
			if name, err := os.Hostname(); !vmtest.InGuest() || os.Getuid() != 0 || name != "stile" {
				t.Errorf("in a guest: %v, user %d, host %q, %v", vmtest.InGuest(), os.Getuid(), name, err)
			}
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
				t.Errorf("mount: %v", err)
			}
			if err := unix.Unmount(dir, 0); err != nil {
				t.Errorf("unmount: %v", err)
			}
			var st unix.Statfs_t
			if err := unix.Statfs(os.TempDir(), &st); err != nil || st.Type != unix.TMPFS_MAGIC {
				t.Errorf("temporary files are in a file system of type %#x, %v", st.Type, err)
			}
			if _, err := os.Stat("run_test.go"); err != nil {
				t.Errorf("not in the package's folder: %v", err)
			}
			t.Run("sub test", func(t *testing.T) {
				t.Parallel()
				t.Run("deeper", func(t *testing.T) { t.Log("a line") })
			})
			t.Run("skipped", func(t *testing.T) {
				t.Parallel()
				t.Skip("the guest says so")
			})
			if err := os.WriteFile(filepath.Join(t.ArtifactDir(), "artifact"), []byte("from the guest"), 0o644); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("two calls", func(t *testing.T) {
		for _, name := range []string{"first", "second"} {
			vmtest.RunShared(t, vmtest.Config{}, func(t *testing.T) { t.Run(name, func(t *testing.T) {}) })
		}
		if vmtest.InGuest() {
			t.Error("what comes behind a call happens in the guest too")
		}
	})
}

// TestKernels runs a function on each kernel of a table: stile's own and two of the distribution's. make soak runs it.
func TestKernels(t *testing.T) {
	if !testenv.Soak() {
		testenv.Missing(t, "time", "STILE_SOAK is not set")
	}
	for _, kernel := range vmtest.Kernels(t, "default", "6.1", "6.12") {
		t.Run(kernel, func(t *testing.T) {
			vmtest.Run(t, vmtest.Config{Kernel: kernel}, func(t *testing.T) {
				var u unix.Utsname
				if err := unix.Uname(&u); err != nil {
					t.Fatal(err)
				}
				release := unix.ByteSliceToString(u.Release[:])
				if kernel != "default" && !strings.HasPrefix(release, kernel+".") {
					t.Errorf("the kernel is %s", release)
				}
				if out, err := exec.Command("modprobe", "dummy").CombinedOutput(); kernel != "default" && err != nil {
					t.Errorf("modprobe: %v: %s", err, out)
				}
			})
		})
	}
}
