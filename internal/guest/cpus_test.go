package guest

import (
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
