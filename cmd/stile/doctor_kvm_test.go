package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/kvm"
)

// TestDescribeKVM: what doctor says of KVM is what run does with it.
func TestDescribeKVM(t *testing.T) {
	for name, test := range map[string]struct {
		speed  kvm.Speed
		err    error
		state  state
		usable bool
		parts  string // of detail and remedy, separated by |
	}{
		"usable":       {kvm.Speed{}, nil, good, true, "runs guests on the CPU"},
		"emulates":     {kvm.Speed{Emulating: true}, nil, limited, false, "too slow to boot Linux|in the lab"},
		"missing":      {kvm.Speed{}, feature.Missing("KVM", "modprobe kvm_amd"), limited, false, "modprobe kvm_amd|in the lab"},
		"forbidden":    {kvm.Speed{}, syscall.EACCES, missing, false, "permission denied|--on lab"},
		"probe failed": {kvm.Speed{}, fmt.Errorf("set system registers: %w", syscall.EINVAL), limited, true, "invalid argument|on this KVM|--on lab"},
	} {
		f, usable := describeKVM(test.speed, test.err)
		if f.State != test.state || usable != test.usable {
			t.Errorf("%s: state %s, usable %v", name, f.State, usable)
		}
		for part := range strings.SplitSeq(test.parts, "|") {
			if !strings.Contains(f.Detail+"\n"+f.Remedy, part) {
				t.Errorf("%s: %+v lacks %q", name, f, part)
			}
		}
	}
}
