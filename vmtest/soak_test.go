package vmtest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/vmtest"
)

// left is what a process must not have more of, the more VMs it has had.
type left struct{ goroutines, descriptors, children, files int }

func countLeft(t *testing.T) left {
	t.Helper()
	descriptors, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	// Children of any of this process's threads.
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	children := 0
	for _, list := range lists {
		text, _ := os.ReadFile(list) // of a thread that may have ended
		children += len(strings.Fields(string(text)))
	}
	files, err := os.ReadDir(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return left{runtime.NumGoroutine(), len(descriptors), children, len(files)}
}

// more reports whether l has something more than before. Goroutines and threads take a moment to end.
func (l left) more(before left) bool {
	return l.goroutines > before.goroutines || l.descriptors > before.descriptors || l.children > before.children || l.files > before.files
}

// settle returns what is left once it is no more than before, or after some seconds.
func settle(t *testing.T, before left) left {
	t.Helper()
	after := countLeft(t)
	for end := time.Now().Add(10 * time.Second); after.more(before) && time.Now().Before(end); after = countLeft(t) {
		time.Sleep(10 * time.Millisecond)
	}
	return after
}

// TestSoak starts STILE_SOAK VMs, in turn, and then eight at a time. make soak runs it.
func TestSoak(t *testing.T) {
	runs, err := strconv.Atoi(os.Getenv("STILE_SOAK"))
	if err != nil {
		testenv.Missing(t, "time", "STILE_SOAK, the number of VMs, is not set")
	}
	t.Setenv("TMPDIR", t.TempDir())
	once := func(t *testing.T) {
		vm := vmtest.Start(t, vmtest.Config{})
		if out, err := vm.Command(t.Context(), "echo", t.Name()).Output(); err != nil || string(out) != t.Name()+"\n" {
			t.Errorf("%q, %v", out, err)
		}
	}
	t.Run("first", once) // makes what is made once
	before := countLeft(t)
	for i := range runs {
		t.Run(fmt.Sprint(i), once)
		if after := settle(t, before); after.more(before) {
			t.Fatalf("after %d VMs: %+v, after the first: %+v", i+1, after, before)
		}
	}
	t.Run("parallel", func(t *testing.T) {
		for i := range 8 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				once(t)
			})
		}
	})
}
