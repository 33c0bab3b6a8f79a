package say

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"plain text: äöü 日本\n\tnext\r\n": "plain text: äöü 日本\n\tnext\n",
		"\x1b]0;title\a\x1b[31mred":      `\x1b]0;title\x07\x1b[31mred`,
		"over\rwritten":                  `over\x0dwritten`,
		"c1 \u009b31m, \xff\xfe":         `c1 \u009b31m, \xff\xfe`,
		"a\u202eb\u2066c\u200fd":         `a\u202eb\u2066c\u200fd`,
		"\x00\b\x7f":                     `\x00\x08\x7f`,
	} {
		if got := Clean(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
		var b bytes.Buffer
		w := Writer(&b).(*cleaner)
		for i := range len(text) { // however it is cut
			if _, err := w.Write([]byte(text[i : i+1])); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil || b.String() != want {
			t.Errorf("%q becomes %q byte by byte, %v", text, &b, err)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b[2J\xff\u202e")
	f.Fuzz(func(t *testing.T, text string) {
		clean := Clean(text)
		if !utf8.ValidString(clean) || strings.ContainsFunc(clean, obeyed) {
			t.Errorf("%q becomes %q", text, clean)
		}
		if Clean(clean) != clean {
			t.Errorf("%q is not clean", clean)
		}
	})
}

// TestStalledReader: nobody waits for long for a reader that stands still.
func TestStalledReader(t *testing.T) {
	r, w := io.Pipe()
	defer r.Close()
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		Line(w, "text")
		Until(ctx, w, "more")
	}()
	cancel()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("waits for its reader")
	}
}
