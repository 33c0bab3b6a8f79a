package vmtest

import (
	"bytes"
	"strings"
)

// marker stands before each line of package testing's own, in the output of a test binary with
// -test.v=test2json: nothing that a test prints is mistaken for one.
const marker = 0x16

// maxLine bounds what of a line without an end is kept, in bytes.
const maxLine = 64 << 10

// action is what an event says about a test.
type action int

const (
	output action = iota // it printed text
	run                  // it starts
	attr                 // it has an attribute, in text
	pass                 // it has ended
	fail
	skip
)

// event is something that a test binary says.
type event struct {
	action action
	test   string // "" outside of any test
	text   string
	own    bool // output of package testing that belongs to no test: "PASS" and the like
}

// eventParser turns the output of a test binary into events. It is a Writer for one goroutine at a time.
type eventParser struct {
	emit    func(event)
	line    []byte // what came of the current line
	current string // the test that output belongs to
}

// Write parses p.
func (e *eventParser) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		end := len(p)
		if i := bytes.IndexByte(p, '\n'); i >= 0 {
			end = i + 1
		}
		// A line of package testing's may come behind output that lacks its newline.
		begin := 0
		if len(e.line) == 0 {
			begin = 1 // its own marker
		}
		cut := bytes.IndexByte(p[begin:end], marker)
		if cut >= 0 {
			end = begin + cut
		}
		e.line = append(e.line, p[:end]...)
		p = p[end:]
		if cut >= 0 || bytes.HasSuffix(e.line, []byte{'\n'}) || len(e.line) >= maxLine {
			e.flush()
		}
	}
	return written, nil
}

// flush makes an event of the current line, also of one without an end.
func (e *eventParser) flush() {
	if len(e.line) == 0 {
		return
	}
	line := string(e.line)
	e.line = e.line[:0]
	own, ok := strings.CutPrefix(line, string(rune(marker)))
	if !ok {
		e.emit(event{action: output, test: e.current, text: line})
		return
	}
	own = strings.TrimSuffix(own, "\n")
	if e.update(own) || e.result(own) {
		return
	}
	e.emit(event{action: output, text: own + "\n", own: true})
}

// update reads a line such as "=== RUN   TestX".
func (e *eventParser) update(line string) bool {
	rest, ok := strings.CutPrefix(line, "=== ")
	if !ok {
		return false
	}
	verb, rest, _ := strings.Cut(rest, " ")
	test, text, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
	switch verb {
	case "RUN":
		e.current = test
		e.emit(event{action: run, test: test})
	case "NAME", "CONT":
		e.current = test
	case "PAUSE":
		e.current = ""
	case "ATTR":
		e.emit(event{action: attr, test: test, text: text})
	default: // ARTIFACTS and what is to come
		e.emit(event{action: output, test: test, text: line + "\n"})
	}
	return true
}

// result reads a line such as "--- PASS: TestX (0.00s)".
func (e *eventParser) result(line string) bool {
	rest, ok := strings.CutPrefix(line, "--- ")
	if !ok {
		return false
	}
	verb, rest, ok := strings.Cut(rest, ": ")
	if !ok {
		return false
	}
	actions := map[string]action{"PASS": pass, "FAIL": fail, "SKIP": skip}
	a, ok := actions[verb]
	if !ok {
		return false
	}
	test, _, _ := strings.Cut(rest, " ")
	e.current = ""
	e.emit(event{action: a, test: test})
	return true
}
