package vmtest

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Flags of this test binary, of the kinds whose String does not say how they were set.
var (
	repeated   repeatedFlag
	calledWith []string
)

var (
	_ = registerFlag(func() { flag.Var(&repeated, "stile-repeated", "") })
	_ = registerFlag(func() {
		flag.Func("stile-func", "", func(text string) error { calledWith = append(calledWith, text); return nil })
	})
	_ = registerFlag(func() {
		flag.BoolFunc("stile-bool-func", "", func(string) error { calledWith = append(calledWith, "bool"); return nil })
	})
)

func registerFlag(register func()) bool { register(); return true }

// repeatedFlag collects its values, and prints the last one.
type repeatedFlag []string

func (r *repeatedFlag) Set(text string) error { *r = append(*r, text); return nil }

func (r *repeatedFlag) String() string {
	if len(*r) == 0 {
		return ""
	}
	return (*r)[len(*r)-1]
}

// TestRelayedFlags is for TestRelayFlags.
func TestRelayedFlags(t *testing.T) {
	if os.Getenv(envRelayed) == "" {
		return
	}
	relayedRun(t, func(t *testing.T) { fmt.Printf("flags: %q %q %q\n", []string(repeated), calledWith, flag.Args()) })
}

// TestRelayFlags: a binary's own flags are in the guest what they are here.
func TestRelayFlags(t *testing.T) {
	out, err := relayTests(t, "^TestRelayedFlags$", "-stile-repeated=a", "--stile-repeated", "b c", "-stile-func", "-x", "-stile-bool-func",
		"-stile-func=", "-test.count", "1", "--", "-arg", "last")
	if want := `flags: ["a" "b c"] ["-x" "bool" ""] ["-arg" "last"]`; err != nil || !strings.Contains(out, want) {
		t.Errorf("%v, want %s in %s", err, want, out)
	}
}

func TestOwnArgs(t *testing.T) {
	for _, test := range []struct{ args, own, rest []string }{
		{nil, nil, nil},
		{[]string{"-test.run", "X", "-test.v", "-test.short", "a", "-test.short"}, []string{"-test.short"}, []string{"a", "-test.short"}},
		{[]string{"--test.skip=Y", "-stile-func"}, []string{"--test.skip=Y", "-stile-func"}, nil},
		{[]string{"--", "-test.short"}, nil, []string{"--", "-test.short"}},
		{[]string{"-"}, nil, []string{"-"}},
	} {
		own, rest := ownArgs(flag.CommandLine, test.args)
		if diff := cmp.Diff([2]string{strings.Join(test.own, "|"), strings.Join(test.rest, "|")}, [2]string{strings.Join(own, "|"), strings.Join(rest, "|")}); diff != "" {
			t.Errorf("%q: %s", test.args, diff)
		}
	}
}
