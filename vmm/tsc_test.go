package vmm

import (
	"errors"
	"strings"
	"testing"
)

type refusing struct{ err error }

func (r refusing) SetHostTSCKHz() error { return r.err }

// TestTSCRefused: a KVM that can't set the frequency of a guest's counter costs one notice, not the VM.
func TestTSCRefused(t *testing.T) {
	var notices []string
	v := &VM{cfg: Config{Notice: func(text string) { notices = append(notices, text) }}}
	for id := range 3 {
		v.setTSC(id, refusing{errors.New("set TSC frequency of vCPU: refused")})
	}
	v.setTSC(0, refusing{})
	if len(notices) != 1 || !strings.Contains(notices[0], "refused") {
		t.Errorf("notices %q, want one", notices)
	}
}
