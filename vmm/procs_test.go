package vmm

import (
	"runtime"
	"testing"
)

// TestProcessors is about the processors of several VMs in one process, and of none afterwards.
func TestProcessors(t *testing.T) {
	before := runtime.GOMAXPROCS(2)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	var p processors
	want := func(when string, n int) {
		t.Helper()
		if got := runtime.GOMAXPROCS(0); got != n {
			t.Errorf("%s: %d processors, want %d", when, got, n)
		}
	}
	p.reserve(1)
	want("a VM", 3)
	p.reserve(4)
	want("a second one", 7)
	p.release(1)
	want("the first one is gone", 6)
	p.release(4)
	want("both are gone", 2)

	p.reserve(1)
	runtime.GOMAXPROCS(9) // the program's own choice
	p.reserve(1)
	want("enough of the program's own", 9)
	p.release(2)
	want("no VM", 9)
}
