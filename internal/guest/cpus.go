package guest

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/stile-vmm/stile/internal/agentproto"
)

const (
	// mostCPUs is how many CPUs a guest has at the most of those of this host: programs that use several have some, and a boot
	// does not wait for many.
	mostCPUs = 4
	// labCPUs is what is fastest under emulation, where the nested host has one.
	labCPUs = 1
)

// defaultCPUs returns how many CPUs a guest has that asks for no number.
func defaultCPUs() int {
	if Nested() {
		return labCPUs
	}
	return min(runtime.NumCPU(), mostCPUs)
}

// defaultKernelCPUs is the default kernel's CONFIG_NR_CPUS.
const defaultKernelCPUs = 64

// validateCPUs refuses more CPUs than the default kernel runs. Of other kernels only they know: see fewerCPUs.
func (s Spec) validateCPUs() error {
	if (s.Kernel == "" || s.Kernel == KernelDefault) && s.CPUs > defaultKernelCPUs {
		return fmt.Errorf("%d CPUs: the default kernel runs at most %d; use another kernel, such as -k debian:6.12", s.CPUs, defaultKernelCPUs)
	}
	return nil
}

// fewerCPUs returns what the user is to know where the guest's kernel runs fewer CPUs than its machine has, and
// nobody asked for that; else "".
func (s Spec) fewerCPUs(h *agentproto.Hello) string {
	wanted := max(s.CPUs, 1)
	if h.CPUs <= 0 || h.CPUs >= wanted {
		return ""
	}
	for _, word := range s.Append {
		name, _, _ := strings.Cut(word, "=")
		switch name {
		case "maxcpus", "nr_cpus", "nosmp", "nolapic":
			return ""
		}
	}
	return fmt.Sprintf("the guest's kernel runs %d of its %d CPUs (its CONFIG_NR_CPUS may be too small, or a CPU did not start: stile logs tells)",
		h.CPUs, wanted)
}

// noticeCPUs tells the user of it.
func (s Spec) noticeCPUs(h *agentproto.Hello) {
	if text := s.fewerCPUs(h); text != "" {
		notice(text)
	}
}
