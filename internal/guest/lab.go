package guest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/agent"
	"github.com/stile-vmm/stile/lab"
)

// LabHost is a resumed nested host in which guests of one Spec can be booted.
type LabHost struct {
	*lab.Host
	self   string // this program's path in the nested host
	images Images
}

// ResumeLab resumes the nested host, with room for a guest of s, and makes the images of
// s outside, where they are kept: the nested host forgets everything. progress gets a
// line when something takes long. The caller closes the host.
func ResumeLab(ctx context.Context, s Spec, progress io.Writer) (*LabHost, error) {
	s = s.withDefaults()
	cache, err := images.Open("")
	if err != nil {
		return nil, err
	}
	made, err := makeImages(ctx, cache, s)
	if err != nil {
		return nil, err
	}
	image, self, err := labImage(ctx, cache)
	if err != nil {
		return nil, err
	}
	if s.Kernel == "" {
		made.Kernel = path.Join(agent.Preloaded, preloadedKernel)
	}
	host, err := lab.Resume(ctx, &lab.Config{Dir: cache.Dir(), Image: image, GuestMem: int64(s.Memory), Progress: progress})
	if err != nil {
		return nil, err
	}
	return &LabHost{host, self, made}, nil
}

// Run runs this program in the nested host with o.Args as its arguments and o.Env beside
// this process's environment.
func (h *LabHost) Run(ctx context.Context, o *lab.Options) (lab.Status, error) {
	made, err := json.Marshal(h.images)
	if err != nil {
		return lab.Status{}, err
	}
	nested := *o
	nested.Args = append([]string{h.self}, o.Args...)
	nested.Env = append(nestedEnv(), EnvNested+"=1", envImages+"="+string(made))
	nested.Env = append(nested.Env, o.Env...)
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() { end(h.watch(ctx)) }()
	status, err := h.Host.Run(ctx, &nested)
	if cause := context.Cause(ctx); errors.Is(cause, errStuck) {
		err = cause
	}
	return status, err
}

// errStuck says that the nested host does nothing any more, which no deadline inside it
// can notice.
var errStuck = errors.New("the lab's nested host does not answer any more and was ended; run again, and please report it if it happens often")

const (
	// pulseInterval is how often the nested host's agent is asked whether it lives.
	pulseInterval = 10 * time.Second
	// pulseLimit is how long it may take to answer. Under emulation on a busy machine
	// seconds are ordinary.
	pulseLimit = time.Minute
)

// watch returns errStuck once the nested host does not answer, nil when ctx ends.
func (h *LabHost) watch(ctx context.Context) error {
	tick := time.NewTicker(pulseInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		pulse, cancel := context.WithTimeout(ctx, pulseLimit)
		_, err := h.Session().Pull(pulse, "/proc/version", io.Discard)
		stuck := err != nil && errors.Is(pulse.Err(), context.DeadlineExceeded)
		cancel()
		if stuck {
			return errStuck
		}
	}
}

// nestedEnv is this process's environment, but for what names places that the nested
// host can't write.
func nestedEnv() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, images.EnvCache+"=") && !strings.HasPrefix(e, "TMPDIR=") {
			env = append(env, e)
		}
	}
	return append(env, images.EnvCache+"=/run/stile-cache")
}

// Times returns where the time of the resume went, in ms.
func (h *LabHost) Times() []PhaseTime {
	p := h.Phases()
	var times []PhaseTime
	for _, part := range []struct {
		name string
		d    time.Duration
	}{{"state", p.State}, {"qemu", p.QEMU}, {"load", p.Load}, {"session", p.Session}, {"setup", p.Setup}} {
		times = append(times, PhaseTime{part.name, float64(part.d.Microseconds()) / 1000})
	}
	return times
}
