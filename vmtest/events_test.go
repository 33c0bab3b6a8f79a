package vmtest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a test binary of Go 1.26 prints with -test.v=test2json: ^V before each line of package testing's own.
const stream = "\x16=== RUN   TestX\n" +
	"    x_test.go:1: a log\n" +
	"\x16=== RUN   TestX/sub\n" +
	"without a newline\x16=== PAUSE TestX/sub\n" +
	"\x16=== NAME  TestX\n" +
	"=== RUN   TestFake\n" +
	"\x16=== ATTR  TestX stile.done 1\n" +
	"\x16=== CONT  TestX/sub\n" +
	"    x_test.go:2: again\n" +
	"\x16--- PASS: TestX/sub (0.00s)\n" +
	"\x16--- SKIP: TestX (0.10s)\n" +
	"panic: after all\n" +
	"\x16FAIL\n"

var streamEvents = []event{
	{action: run, test: "TestX", text: ""},
	{action: output, test: "TestX", text: "    x_test.go:1: a log\n"},
	{action: run, test: "TestX/sub", text: ""},
	{action: output, test: "TestX/sub", text: "without a newline"},
	{action: output, test: "TestX", text: "=== RUN   TestFake\n"},
	{action: attr, test: "TestX", text: "stile.done 1"},
	{action: output, test: "TestX/sub", text: "    x_test.go:2: again\n"},
	{action: pass, test: "TestX/sub", text: ""},
	{action: skip, test: "TestX", text: ""},
	{action: output, test: "", text: "panic: after all\n"},
	{action: output, text: "FAIL\n", own: true},
}

func parseEvents(text string, chunk int) []event {
	var events []event
	p := &eventParser{emit: func(e event) { events = append(events, e) }}
	for len(text) > 0 {
		n := min(chunk, len(text))
		_, _ = p.Write([]byte(text[:n]))
		text = text[n:]
	}
	p.flush()
	return events
}

func TestEvents(t *testing.T) {
	for _, chunk := range []int{1, 7, len(stream)} { // however it is cut
		if diff := cmp.Diff(streamEvents, parseEvents(stream, chunk), cmp.AllowUnexported(event{})); diff != "" {
			t.Errorf("in pieces of %d: %s", chunk, diff)
		}
	}
}

// TestEndlessLine: a line that never ends is not kept until it does.
func TestEndlessLine(t *testing.T) {
	got := parseEvents(strings.Repeat("x", 3*maxLine), 1000)
	if len(got) < 3 {
		t.Errorf("%d events", len(got))
	}
}

func FuzzEvents(f *testing.F) {
	f.Add(stream, 3)
	f.Add("\x16=== \x16--- : \x16=== ATTR\n\x16\n", 1)
	f.Fuzz(func(t *testing.T, text string, chunk int) {
		chunk = max(1, chunk)
		whole, cut := parseEvents(text, len(text)), parseEvents(text, chunk)
		if len(text) < maxLine {
			if diff := cmp.Diff(whole, cut, cmp.AllowUnexported(event{})); diff != "" {
				t.Error(diff)
			}
		}
		// And nothing that is relayed makes the relay hang or panic.
		r := newRelay("TestX")
		go r.root.discard()
		for _, e := range whole {
			r.handle(e)
		}
		r.end()
	})
}

func TestGuestPattern(t *testing.T) {
	for _, test := range []struct{ name, pattern, want string }{
		{"TestX", "", "^TestX$"},
		{"TestX", "Test", "^TestX$"},
		{"TestX", "X/sub", "^TestX$/sub"},
		{"TestX/a.b", "X/a/c|d", `^TestX$/^a\.b$/c`},
		{"TestX", "X/a|X/b", "^TestX$/a|^TestX$/b"},
		{"TestX", "Y/a|X", "^TestX$"},
		{"TestX", "X/(a|b)/c", "^TestX$/(a|b)/c"},
		{"TestX", "[X/]/a", "^TestX$/a"},
		{"TestX", "no[match", "^TestX$"},
	} {
		if got := guestPattern(test.name, test.pattern); got != test.want {
			t.Errorf("%s selected by %q: %q, want %q", test.name, test.pattern, got, test.want)
		}
	}
}
