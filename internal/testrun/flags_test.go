package testrun

import (
	"slices"
	"testing"
	"time"
)

func TestFlags(t *testing.T) {
	// What the go command of 1.26 gives a test binary.
	f := ParseFlags([]string{
		"-test.testlogfile=/tmp/b001/testlog.txt", "-test.paniconexit0", "-test.timeout=10m0s", "-test.v=test2json",
		"-test.coverprofile=/tmp/b001/_cover_.out", "-test.gocoverdir=/tmp/b001/gocoverdir", "-test.outputdir=out", "-test.cpuprofile=cpu.out",
		"-test.memprofile=/dev/null", "-test.artifacts", "-mine=-test.fuzz=x", "file",
	})
	if got := f.Timeout(); got != 10*time.Minute || f.Lists() || f.Fuzzes() {
		t.Errorf("timeout %v, lists %v, fuzzes %v", got, f.Lists(), f.Fuzzes())
	}
	if got, want := f.Files("/pkg"), []string{"/tmp/b001/_cover_.out", "/pkg/out/cpu.out", "/tmp/b001/testlog.txt"}; !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	if got, want := f.Folders("/pkg"), []string{"/tmp/b001/gocoverdir", "/pkg/out/_artifacts"}; !slices.Equal(got, want) {
		t.Errorf("folders %q, want %q", got, want)
	}
	none := ParseFlags([]string{"--test.v", "x"})
	if none.Files("/pkg") != nil || none.Folders("/pkg") != nil || none.Timeout() != 0 {
		t.Errorf("without flags: %+v", none)
	}
	apart := ParseFlags([]string{"-test.fuzz", "FuzzX", "-test.list", "."})
	if !apart.Fuzzes() || !apart.Lists() {
		t.Errorf("values apart: %+v", apart)
	}
}
