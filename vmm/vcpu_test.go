package vmm

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stile-vmm/stile/kvm"
)

// TestTwice: a VM that KVM could not prepare is made anew, once; other faults are not repeated.
func TestTwice(t *testing.T) {
	spoilt := fmt.Errorf("vCPU 0: %w", kvm.ErrFirstRun)
	other := errors.New("no memory")
	for name, test := range map[string]struct {
		errs  []error
		want  error
		calls int
	}{
		"at once":       {[]error{nil}, nil, 1},
		"second":        {[]error{spoilt, nil}, nil, 2},
		"never":         {[]error{spoilt, spoilt}, kvm.ErrFirstRun, 2},
		"another fault": {[]error{other}, other, 1},
		"then another":  {[]error{spoilt, other}, other, 2},
	} {
		calls := 0
		v, err := twice(func() (*VM, error) {
			calls++
			if err := test.errs[calls-1]; err != nil {
				return nil, err
			}
			return &VM{}, nil
		})
		if !errors.Is(err, test.want) || (err == nil) != (v != nil) || calls != test.calls {
			t.Errorf("%s: %v, %v after %d calls", name, v, err, calls)
		}
	}
}
