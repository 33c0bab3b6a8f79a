package guest

import (
	"runtime"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/agentproto"
)

func TestDefaultKernelRefusesCPUs(t *testing.T) {
	for _, kernel := range []string{"", KernelDefault} {
		err := Spec{Kernel: kernel, CPUs: 65}.Validate()
		if err == nil || !strings.Contains(err.Error(), "65 CPUs: the default kernel runs at most 64") {
			t.Errorf("kernel %q: %v", kernel, err)
		}
	}
	for _, s := range []Spec{{CPUs: 64}, {Kernel: "6.12", CPUs: 200}} {
		if err := s.Validate(); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

func TestFewerCPUs(t *testing.T) {
	for name, test := range map[string]struct {
		spec   Spec
		runs   int
		notice bool
	}{
		"all":            {Spec{CPUs: 2}, 2, false},
		"fewer":          {Spec{CPUs: 200}, 64, true},
		"asked for":      {Spec{CPUs: 4, Append: []string{"quiet", "maxcpus=1"}}, 1, false},
		"default":        {Spec{}, 1, false},
		"an older agent": {Spec{CPUs: 2}, 0, false},
		"a liar":         {Spec{CPUs: 2}, -5, false},
	} {
		text := test.spec.fewerCPUs(&agentproto.Hello{CPUs: test.runs})
		if (text != "") != test.notice {
			t.Errorf("%s: %q", name, text)
		}
		if test.notice && !strings.Contains(text, "runs 64 of its 200 CPUs") {
			t.Errorf("%s: %q", name, text)
		}
	}
}

// TestDefaultCPUs: this host's up to four, and one in the lab, whichever side describes the guest.
func TestDefaultCPUs(t *testing.T) {
	if got, want := (Spec{}).withDefaults().CPUs, min(runtime.NumCPU(), 4); got != want {
		t.Errorf("on this host %d CPUs, want %d", got, want)
	}
	if got := (Spec{}).inLab().CPUs; got != 1 {
		t.Errorf("in the lab, from here, %d CPUs", got)
	}
	if a, b := (Spec{CPUs: 3}).withDefaults().CPUs, (Spec{CPUs: 3}).inLab().CPUs; a != 3 || b != 3 {
		t.Errorf("of 3 CPUs %d and %d", a, b)
	}
	if info := describe(Spec{}, InLab); info.CPUs != 1 || info.On != "lab" {
		t.Errorf("stile ps says %+v", info)
	}
	t.Setenv(EnvNested, "1")
	if Nested() && (Spec{}).withDefaults().CPUs != 1 {
		t.Error("several CPUs in the nested host")
	}
}
