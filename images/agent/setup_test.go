package agent

import (
	"slices"
	"strings"
	"testing"
)

// TestOptions9P: a share that is cached for good still asks again for names that were not there (Linux 7.2 keeps those for a day
// with cache=loose), and what the host gives as options comes last.
func TestOptions9P(t *testing.T) {
	for readOnly, want := range map[bool][]string{true: {"cache=loose", "negtimeout=0"}, false: {"cache=mmap"}} {
		words := strings.Split(options(options9P(readOnly), "cache=none"), ",")
		for _, word := range append(want, "trans=virtio", "version=9p2000.L") {
			if !slices.Contains(words, word) {
				t.Errorf("read-only %v: %q lacks %s", readOnly, words, word)
			}
		}
		if words[len(words)-1] != "cache=none" {
			t.Errorf("read-only %v: %q", readOnly, words)
		}
	}
}
