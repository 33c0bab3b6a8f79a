package vmtest

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/session"
	"github.com/stile-vmm/stile/internal/testrun"
)

// Run boots a VM of c and runs f in it, as root of the guest. What f does to t happens to t here: its subtests are subtests here,
// with their output and results, and so are its logs, failures and skips. -run, -skip, -v, -failfast, -timeout,
// -cover, -race and -artifacts have their effect in the guest too. With -short the test is skipped.
//
// The guest runs this test binary anew, with the same test selected, until it comes to the same call of Run, which calls f
// there. So what the test does before that call happens on both sides, variables of this process are not those of the guest, and
// what comes behind the call happens here alone. A VM that the test has started before is of no use there: each of its methods
// fails. A test that skips itself there before it comes to the call fails here. Run within f just calls its function. The working directory and the environment are the same; t.TempDir is in
// the guest's memory; what f writes is gone with the VM, unless it is in t.ArtifactDir and -artifacts is given.
//
// In a test binary that runs in a guest as a whole, by Main or stile test, Run just calls f.
func Run(t *testing.T, c Config, f func(t *testing.T)) {
	t.Helper()
	runWith(t, c, f, Start)
}

// RunShared is Run in the VM that Shared returns.
func RunShared(t *testing.T, c Config, f func(t *testing.T)) {
	t.Helper()
	runWith(t, c, f, Shared)
}

func runWith(t *testing.T, c Config, f func(t *testing.T), get func(testing.TB, Config) *VM) {
	t.Helper()
	call := calls.next(t)
	switch here.role(t, call) {
	case whole, inside:
		f(t)
		return
	case turn:
		here.begin(t)
		t.Attr(attrBegun, "1")
		f(t)
		t.Attr(attrDone, "1")
		t.SkipNow() // what follows is not for the guest
	case before:
		return // another call's turn
	case behind:
		t.SkipNow()
	}
	if err := c.runsTests(); err != nil {
		t.Fatalf("vmtest: Run: %v", err)
	}
	vm := get(t, c)
	vm.runTest(t, call)
}

// callCounter counts the calls of Run in each test.
type callCounter struct {
	mu sync.Mutex
	n  map[*testing.T]int
}

// calls lasts as long as the process: a call of Run is known by its test's name and its number.
var calls callCounter

// next names a call of Run, the same in every process.
func (c *callCounter) next(t *testing.T) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[*testing.T]int)
	}
	if c.n[t] == 0 {
		t.Cleanup(func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.n, t)
		})
	}
	c.n[t]++
	return fmt.Sprintf("%s#%d", t.Name(), c.n[t])
}

// runTest runs a call of Run in the VM, and makes its results t's.
func (vm *VM) runTest(t *testing.T, call string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatalf("vmtest: Run: %v", err)
	}
	log, err := newTestLog()
	if err != nil {
		t.Fatalf("vmtest: Run: %v", err)
	}
	defer log.remove()
	r := newRelay(t.Name())
	parser := &eventParser{emit: r.handle}
	var status session.Status
	go func() {
		defer r.end()
		status, err = testrun.Run(t.Context(), vm.session, &testrun.Command{
			Path: self, Args: guestArgs(t, log.path), Dir: vm.dir, Env: []string{testrun.EnvGuest + "=" + call}, Stdout: parser, Stderr: parser,
		})
		parser.flush()
	}()
	result := r.root.serve(t)
	log.replay()
	if code := status.ExitCode(); err == nil && code > 1 {
		t.Logf("the test binary in the guest: %v", status) // a panic, mostly
	}
	switch {
	case err != nil:
		t.Fatalf("vmtest: %v", vm.explain(err))
	case result == fail && r.done:
		t.Fail()
	case result == fail:
		t.FailNow() // as f did
	case result == output:
		t.Fatalf("vmtest: the test did not end in the guest: %v", status)
	case r.done && status.ExitCode() != 0 && !t.Failed():
		t.Errorf("vmtest: the test binary in the guest: %v", status)
	case r.done:
	case result == skip && r.begun:
		t.SkipNow()
	case result == skip:
		t.Fatal("vmtest: the test skipped itself in the guest before it came to this call of Run: leave that out where vmtest.InGuest()")
	default:
		t.Fatal("vmtest: the guest did not come to this call of Run: what the test does before it must be the same there")
	}
}

// timeoutMargin is what a guest's -timeout is shorter than what is left here: its stacks tell more than those here.
const timeoutMargin = 5 * time.Second

// ownFlags are flags of package testing that are not passed on: those that choose what runs, those that write files for the
// binary as a whole, and those that runTest sets.
var ownFlags = map[string]bool{
	"run": true, "v": true, "count": true, "cpu": true, "list": true, "timeout": true, "testlogfile": true, "shuffle": true,
	"bench": true, "benchmem": true, "benchtime": true, "fuzz": true, "fuzztime": true, "fuzzminimizetime": true, "fuzzcachedir": true,
	"coverprofile": true, "cpuprofile": true, "memprofile": true, "memprofilerate": true, "blockprofile": true, "blockprofilerate": true,
	"mutexprofile": true, "mutexprofilefraction": true, "trace": true, "paniconexit0": true,
}

// guestArgs returns the arguments of the test binary in the guest.
func guestArgs(t *testing.T, testLog string) []string {
	args := []string{
		"-test.run=" + guestPattern(t.Name(), flagValue("test.run")), "-test.v=test2json", "-test.count=1", "-test.paniconexit0",
		"-test.testlogfile=" + testLog,
	}
	if deadline, ok := t.Deadline(); ok {
		left := time.Until(deadline)
		args = append(args, "-test.timeout="+max(left-timeoutMargin, left/2).String())
	}
	own, rest := ownArgs(flag.CommandLine, os.Args[1:])
	return append(append(args, own...), rest...)
}

// ownArgs takes a test binary's arguments apart as package flag does, into the flags that are passed on to the guest and what
// follows the flags. They are passed on in the words in which they came: a flag's String may say less than that, since a flag may be
// repeated, or be a function.
func ownArgs(set *flag.FlagSet, args []string) (own, rest []string) {
	for len(args) > 0 {
		dashed, ok := strings.CutPrefix(args[0], "-")
		name, _, hasValue := strings.Cut(strings.TrimPrefix(dashed, "-"), "=")
		f := set.Lookup(name)
		if !ok || f == nil { // the first argument that is no flag, or "--"
			break
		}
		words := 1
		if boolean, ok := f.Value.(interface{ IsBoolFlag() bool }); !hasValue && !(ok && boolean.IsBoolFlag()) {
			words = min(2, len(args))
		}
		if name, isTest := strings.CutPrefix(name, "test."); !isTest || !ownFlags[name] {
			own = append(own, args[:words]...)
		}
		args = args[words:]
	}
	return own, args
}

func flagValue(name string) string {
	if f := flag.Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}
