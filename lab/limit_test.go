package lab

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/limit"
)

// TestLimits: what no other state changes touches none, and is said once.
// TestPassingLack: a machine that lacked memory for a moment has a good state.
func TestPassingLack(t *testing.T) {
	err := again(true, errors.New("set up the guest: mount 9p: cannot allocate memory"))
	if !errors.As(err, new(*limit.Error)) || errors.As(err, new(*againError)) {
		t.Errorf("%v is tried again with another state", err)
	}
	if err := again(true, errors.New("bad magic")); !errors.As(err, new(*againError)) {
		t.Errorf("%v is not tried again", err)
	}
}

func TestLimits(t *testing.T) {
	image, err := testImage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	runs := filepath.Join(t.TempDir(), "runs")
	q, err := openQEMU(script(t, `test "$1" = --version && { echo "QEMU emulator version 8.2.1"; exit; }
echo run >>`+runs+`; echo "Unable to create eventfd: Too many open files" >&2; exit 1`))
	if err != nil {
		t.Fatal(err)
	}
	var progress strings.Builder
	c := &Config{Dir: t.TempDir(), Image: image, QEMU: q, Progress: &progress}
	build := *c
	build.Dir = t.TempDir()
	if err := plantNonsense(c); err != nil {
		t.Fatal(err)
	}
	before := onlyState(t, c)
	for name, resume := range map[string]func() error{
		"resume": func() error { _, err := Resume(t.Context(), c); return err },
		"build":  func() error { _, err := Resume(t.Context(), &build); return err },
		"no descriptors": func() error {
			var old unix.Rlimit
			if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
				t.Fatal(err)
			}
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}); err != nil {
				t.Fatal(err)
			}
			defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
			st, err := loadState(before.Path, before.Key)
			if st != nil {
				st.Close()
			}
			return err
		},
	} {
		progress.Reset()
		os.Remove(runs)
		err := resume()
		var limited *limit.Error
		if !errors.As(err, &limited) || strings.Count(err.Error(), "ulimit -n") != 1 || errors.Is(err, errDamaged) {
			t.Errorf("%s: %v, want the limit of open files", name, err)
		}
		if text, _ := os.ReadFile(runs); name != "no descriptors" && string(text) != "run\n" {
			t.Errorf("%s: QEMU was started %q, not once", name, text)
		}
		if strings.Contains(progress.String(), "damaged") || strings.Contains(progress.String(), "again") {
			t.Errorf("%s: said was %q", name, progress.String())
		}
	}
	if after := onlyState(t, c); after.Meta.ID != before.Meta.ID {
		t.Errorf("the state %+v became %+v", before, after)
	}
}

func onlyState(t *testing.T, c *Config) State {
	t.Helper()
	store, err := OpenStore(filepath.Join(c.Dir, "lab"))
	if err != nil {
		t.Fatal(err)
	}
	states, err := store.List()
	if err != nil || len(states) != 1 {
		t.Fatalf("states %+v, %v", states, err)
	}
	return states[0]
}
