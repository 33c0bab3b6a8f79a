// Package say prints what stile itself says: text that a terminal shows and does not obey, to a reader that may stall.
package say

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// patience is how long a reader may stand still.
const patience = time.Second

// Clean returns text in a form that a terminal only shows: control characters, those of Unicode included that change the direction of
// what follows, and bytes that are not UTF-8 become escapes as in Go. Tabs and line ends stay, and so does a carriage return's line
// end. Names and messages of guests, folders and devices may have any of them.
func Clean(text string) string {
	if !dirty(text) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case r == '\r' && strings.HasPrefix(text, "\r\n"):
		case !obeyed(r):
			b.WriteString(text[:size])
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		text = text[size:]
	}
	return b.String()
}

// dirty tells texts that Clean changes from most.
func dirty(text string) bool {
	return !utf8.ValidString(text) || strings.ContainsFunc(text, obeyed)
}

// obeyed tells characters that do something to a terminal besides being shown.
func obeyed(r rune) bool {
	switch {
	case r == '\n' || r == '\t':
		return false
	case unicode.IsControl(r): // C0, DEL and C1
		return true
	}
	return unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}

// Word is Clean for what stands within a line: line ends and tabs are escapes too.
func Word(text string) string {
	return strings.NewReplacer("\n", `\n`, "\t", `\t`).Replace(Clean(text))
}

// Line prints a line "stile: text", cleaned. It waits for a reader that stands still no longer than a second.
func Line(w io.Writer, text string) { Until(expired(), w, "stile: "+text+"\n") }

// Until prints text, cleaned, and waits for its reader for as long as ctx lives, and then for another second.
func Until(ctx context.Context, w io.Writer, text string) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = io.WriteString(w, Clean(text)) // there is nobody to tell
	}()
	select {
	case <-written:
		return
	case <-ctx.Done():
	}
	select {
	case <-written:
	case <-time.After(patience):
	}
}

// expired returns a context that has ended.
func expired() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// Writer returns a writer that cleans what is written to w, line by line or whole texts: an escape sequence that is cut in two is
// cleaned all the same, since its first character alone makes it one. Close leaves w open.
func Writer(w io.Writer) io.WriteCloser { return &cleaner{w: w} }

type cleaner struct {
	w    io.Writer
	rest []byte // the beginning of a character that was cut
}

// Write has one caller at a time.
func (c *cleaner) Write(p []byte) (int, error) {
	text := append(c.rest, p...)
	whole := len(text) - cut(text)
	c.rest = append([]byte(nil), text[whole:]...)
	if _, err := io.WriteString(c.w, Clean(string(text[:whole]))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// cut returns how many bytes at the end are the beginning of a character, or of a line end.
func cut(text []byte) int {
	if n := len(text); n > 0 && text[n-1] == '\r' {
		return 1
	}
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if b := text[len(text)-n]; utf8.RuneStart(b) {
			if b >= utf8.RuneSelf && !utf8.FullRune(text[len(text)-n:]) {
				return n
			}
			return 0
		}
	}
	return 0
}

// Close writes what is left of a character that was cut. The writer behind stays open.
func (c *cleaner) Close() error {
	rest := string(c.rest)
	c.rest = nil
	_, err := io.WriteString(c.w, Clean(rest))
	return err
}
