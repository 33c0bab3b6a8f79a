package agentproto

import (
	"fmt"
	"io"
)

// Hello is the agent's first message.
type Hello struct {
	// Version is the agent's Version.
	Version int `json:"version"`
	// Kernel is the guest kernel's release, as uname -r prints it.
	Kernel string `json:"kernel"`
	// CPUs is how many CPUs the guest's kernel runs, 0 where the agent does not say.
	CPUs int `json:"cpus,omitempty"`
	// Build identifies the agent's binary: its module version or revision. It is for people to read.
	Build string `json:"build,omitempty"`
	// Phases tells when the agent reached which point, in order.
	Phases []Phase `json:"phases,omitempty"`
	// Warnings are things that failed and were not needed so far, a module for instance.
	Warnings []string `json:"warnings,omitempty"`
}

// Phase is a point of the guest's start.
type Phase struct {
	// Name is one of "init", "mounts", "modules", "port".
	Name string `json:"name"`
	// Nanoseconds counts from the kernel's start (CLOCK_BOOTTIME).
	Nanoseconds int64 `json:"ns"`
}

// Limits on a Hello, whose sender may lie.
const (
	maxPhases   = 32
	maxWarnings = 64
	maxText     = 4096
)

// Validate checks the version and the bounds.
func (h *Hello) Validate() error {
	if h.Version != Version {
		return fmt.Errorf("the guest's agent speaks version %d of the protocol, this program version %d: "+
			"its initramfs was built by another release; build it again (`stile image prune --all`)", h.Version, Version)
	}
	if len(h.Phases) > maxPhases || len(h.Warnings) > maxWarnings || len(h.Kernel) > maxText || len(h.Build) > maxText {
		return fmt.Errorf("the agent's hello exceeds its bounds")
	}
	return nil
}

// ReadHello reads and validates a Hello.
func ReadHello(r io.Reader) (*Hello, error) {
	h := new(Hello)
	if err := ReadMessage(r, MaxReply, h); err != nil {
		return nil, err
	}
	if err := h.Validate(); err != nil {
		return nil, err
	}
	return h, nil
}
