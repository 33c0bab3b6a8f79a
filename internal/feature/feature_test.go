package feature

import (
	"errors"
	"strings"
	"testing"
)

func TestProbeKeepsWhatIsCertain(t *testing.T) {
	unsure := errors.New("permission denied")
	tests := map[string]struct {
		results []error
		want    []error // what each call returns, by errors.Is
		checks  int
	}{
		"available":    {[]error{nil}, []error{nil, nil}, 1},
		"absent":       {[]error{Missing("thing", "")}, []error{ErrNotSupported, ErrNotSupported}, 1},
		"inconclusive": {[]error{unsure, unsure, nil}, []error{unsure, unsure, nil, nil}, 3},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			checks := 0
			p := New(func() error {
				checks++
				return test.results[checks-1]
			})
			for i, want := range test.want {
				if err := p.Err(); !errors.Is(err, want) {
					t.Errorf("call %d: %v, want %v", i, err, want)
				}
			}
			if checks != test.checks {
				t.Errorf("%d checks, want %d", checks, test.checks)
			}
		})
	}
}

func TestMissingNamesTheThing(t *testing.T) {
	err := Missing("KVM_CAP_IRQFD", "update the kernel")
	for _, part := range []string{"KVM_CAP_IRQFD", "not supported", "update the kernel"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks %q", err, part)
		}
	}
}
