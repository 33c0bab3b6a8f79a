package vmtest

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/internal/testrun"
)

// role is what a piece of a test does in this process.
type role int

const (
	host   role = iota // it is outside of any guest
	whole              // all tests of the binary run in this guest
	before             // in a guest that is for a call of Run, the test is on its way to the call
	turn               // it is that call
	inside             // it is within the function of that call
	behind             // the call is over
)

// progress is how far this process is, where it is a guest for a call of Run.
type progress struct {
	mu   sync.Mutex
	root string // the test that made the call, "" before
	over bool   // the call's function has ended; subtests of it that are parallel may go on
}

// here lasts as long as the process.
var here progress

// begin says that the function of the call that this guest is for begins, in test t.
func (p *progress) begin(t *testing.T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.root = t.Name()
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.over = true
	})
}

// role returns the role of test t, or of a call of Run in it, where that has a name.
func (p *progress) role(t testing.TB, call string) role {
	env := os.Getenv(testrun.EnvGuest)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch name := t.Name(); {
	case env == "":
		return host
	case env == testrun.GuestAll:
		return whole
	case env == call:
		return turn
	case p.root == "":
		return before
	case strings.HasPrefix(name, p.root+"/") || name == p.root && !p.over:
		return inside
	}
	return behind
}

// errNotHere is what a VM says in a guest that is for a call of Run which comes behind the VM's start.
var errNotHere = errors.New("vmtest: this code runs a second time, in the guest of a call of Run that comes behind it, where the VM that it uses " +
	"is not: leave it out there (if !vmtest.InGuest()), or put it behind the call")

// outside reports whether a VM can be booted, or lets the test end where it can't or shouldn't. In a guest whose call of Run
// comes later in the test there is none, and the test goes on.
func outside(t testing.TB) bool {
	t.Helper()
	testenv.Short(t)
	switch here.role(t, "") {
	case host:
		return true
	case before:
		return false
	case behind:
		t.SkipNow() // what follows is not for the guest
	}
	t.Fatal("vmtest: this test starts a VM, and runs in one: it can't run under stile test, vmtest.Main or within Run; " +
		"leave it out where vmtest.InGuest()")
	return false
}

// absentVM returns a VM of which each method fails with errNotHere.
func absentVM() *VM { return &VM{absent: true} }

// present returns errNotHere where the VM is none.
func (vm *VM) present() error {
	if vm.absent {
		return errNotHere
	}
	return nil
}
