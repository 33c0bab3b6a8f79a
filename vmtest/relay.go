package vmtest

import (
	"io"
	"strings"
	"sync"
	"testing"
	"unicode"
)

// relay makes the tests that run in a guest tests here: each subtest there is a subtest here, with the same name,
// output and result.
type relay struct {
	tests map[string]*relayed // those that have not ended, by name
	root  *relayed
	begun bool // the function that was to run was called
	done  bool // it has returned
	over  bool // the binary has given its verdict
}

// maxRelayed bounds the tests that a guest can make run here at a time.
const maxRelayed = 10_000

// relayed is a test in the guest that has not ended.
type relayed struct {
	events chan relayEvent // closed when it has ended; one goroutine takes them
	subs   sync.WaitGroup
}

// relayEvent is output or a result, or a subtest that starts.
type relayEvent struct {
	event
	sub *relayed
}

// Attributes of a test whose function was called in the guest, and has returned.
const (
	attrBegun = "stile.begun"
	attrDone  = "stile.done"
)

// newRelay makes the test of that name the root. Somebody has to serve it.
func newRelay(name string) *relay {
	root := &relayed{events: make(chan relayEvent)}
	return &relay{tests: map[string]*relayed{name: root}, root: root}
}

// handle takes an event of the guest. It is called by one goroutine at a time.
func (r *relay) handle(e event) {
	test := r.tests[e.test]
	switch {
	case test == nil && e.action == run:
		r.start(e.test)
	case test == nil && e.action == output:
		r.printed(e)
	case test == nil:
	case e.action == run: // the root
	case test == r.root && e.action == attr && strings.HasPrefix(e.text, attrBegun+" "):
		r.begun = true
	case test == r.root && e.action == attr && strings.HasPrefix(e.text, attrDone+" "):
		r.done = true
	case e.action == output || e.action == attr || test == r.root: // more output may come behind the root's result
		test.events <- relayEvent{event: e}
	default:
		test.events <- relayEvent{event: e}
		delete(r.tests, e.test)
		close(test.events)
	}
}

// coverageLine begins what a binary that was built with -cover says of itself behind its verdict.
const coverageLine = "coverage: "

// printed takes output that belongs to no test that is known: it is the root's, since nothing that is printed may be lost. Only the
// binary's summary is left out, since this process prints its own.
func (r *relay) printed(e event) {
	if e.own {
		r.over = true
		return
	}
	if r.over && strings.HasPrefix(e.text, coverageLine) {
		return
	}
	r.root.events <- relayEvent{event: e}
}

// start makes a test of the guest a subtest of the nearest test above it. One that is not below the root is ignored.
func (r *relay) start(name string) {
	for at := strings.LastIndexByte(name, '/'); at >= 0 && len(r.tests) < maxRelayed; at = strings.LastIndexByte(name[:at], '/') {
		parent := r.tests[name[:at]]
		if parent == nil {
			continue
		}
		sub := &relayed{events: make(chan relayEvent)}
		r.tests[name] = sub
		parent.events <- relayEvent{event: event{action: run, test: name[at+1:]}, sub: sub}
		return
	}
}

// end says that nothing more will come.
func (r *relay) end() {
	for name, test := range r.tests {
		delete(r.tests, name)
		close(test.events)
	}
}

// serve makes t the test whose events these are, until it ends, and returns its result: output if there was none.
func (test *relayed) serve(t *testing.T) action {
	result := output
	for e := range test.events {
		switch e.action {
		case run:
			test.subs.Go(func() {
				t.Run(e.test, e.sub.serveSub)
				e.sub.discard() // where t.Run had a reason not to call it
			})
		case output:
			_, _ = io.WriteString(t.Output(), strings.TrimPrefix(e.text, "    ")) // t.Output indents, and never fails
		case attr:
			setAttr(t, e.text)
		default:
			result = e.action
		}
	}
	test.subs.Wait()
	return result
}

// setAttr gives t the attribute of a test in the guest, a key and a value, unless a test can't have such a one.
func setAttr(t *testing.T, text string) {
	key, value, _ := strings.Cut(text, " ")
	if key != "" && !strings.ContainsFunc(key, unicode.IsSpace) && !strings.ContainsAny(value, "\r\n") {
		t.Attr(key, value)
	}
}

func (test *relayed) serveSub(t *testing.T) {
	switch test.serve(t) {
	case fail:
		t.Fail()
	case skip:
		t.SkipNow()
	case output:
		t.Error("vmtest: it did not end in the guest")
	}
}

func (test *relayed) discard() {
	for e := range test.events {
		if e.sub != nil {
			go e.sub.discard()
		}
	}
}
