// Package testenv decides whether a test can run here. A test that can't is skipped
// with the name of the missing thing, or fails where that thing should be there.
package testenv

import (
	"os"
	"strings"
	"testing"
)

// Require is the environment variable that lists what must be there, separated by
// commas: "kvm,lab,cc". A test that misses a listed thing fails instead of skipping.
const Require = "STILE_TEST_REQUIRE"

// Missing ends the test: thing ("kvm", "lab", "cc") is not there for the reason given.
func Missing(t testing.TB, thing, reason string) {
	t.Helper()
	if Required(thing) {
		t.Fatalf("missing %s, which %s requires: %s", thing, Require, reason)
	}
	t.Skipf("missing %s: %s", thing, reason)
}

// Required reports whether thing must be there.
func Required(thing string) bool {
	for required := range strings.SplitSeq(os.Getenv(Require), ",") {
		if strings.TrimSpace(required) == thing {
			return true
		}
	}
	return false
}

// KVM ends the test unless /dev/kvm can be opened for reading and writing.
func KVM(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		Missing(t, "kvm", err.Error())
	}
	f.Close()
}

// Short ends a test that boots Linux when -short was asked for.
func Short(t testing.TB) {
	t.Helper()
	if testing.Short() {
		Missing(t, "time", "-short")
	}
}

// Allocations ends a test that counts allocations where the race detector makes more of them.
func Allocations(t testing.TB) {
	t.Helper()
	if race {
		Missing(t, "plain code", "the race detector allocates")
	}
}

// Soak reports whether tests may take their time, as in make soak.
func Soak() bool { return os.Getenv("STILE_SOAK") != "" }
