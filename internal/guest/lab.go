package guest

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/agent"
	"github.com/stile-vmm/stile/internal/bytejson"
	"github.com/stile-vmm/stile/internal/control"
	"github.com/stile-vmm/stile/lab"
	"github.com/stile-vmm/stile/vmm"
)

// LabHost is a resumed nested host in which guests of one Spec can be booted.
type LabHost struct {
	*lab.Host
	self   string   // this program's path in the nested host
	cache  string   // this stile's cache
	typed  string   // the flags of "stile lab" that lead to it
	kept   []string // see keptPaths
	images Images
	locks  vmm.Images // of the guest's disks; nil without
	nets   *labNets   // nil without guests
}

// Close ends the nested host with all that runs in it, unlocks the guest's disks and ends its networks.
func (h *LabHost) Close() error { return errors.Join(h.Host.Close(), h.locks.Close(), h.nets.close()) }

// ResumeLab is OpenLab with room for a guest of s, and with the images of s made outside, where they
// are kept: the nested host forgets everything.
func ResumeLab(ctx context.Context, s Spec, l LabSpec, progress io.Writer) (*LabHost, error) {
	s = s.inLab()
	cache, err := images.Open("")
	if err != nil {
		return nil, err
	}
	made, err := makeImages(ctx, cache, s, progress)
	if err != nil {
		return nil, err
	}
	if s.Kernel == "" {
		made.Kernel = path.Join(agent.Preloaded, preloadedKernel)
	}
	locks, written, err := s.lockDisks()
	if err != nil {
		return nil, err
	}
	nets, err := openNets(s)
	if err != nil {
		return nil, errors.Join(err, locks.Close())
	}
	l.Dir = s.Dir
	if err := s.noteWritten(); err != nil {
		return nil, errors.Join(err, locks.Close(), nets.close())
	}
	l.Writable = slices.Concat(l.Writable, written, s.writtenFolders())
	host, err := openLab(ctx, cache, l, s.Memory, progress)
	if err != nil {
		return nil, errors.Join(err, locks.Close(), nets.close())
	}
	host.images, host.locks, host.nets = made, locks, nets
	if err := nets.listen(ctx, host.Session()); err != nil {
		return nil, errors.Join(err, host.Close())
	}
	return host, nil
}

// Run runs this program in the nested host with o.Args as its arguments and o.Env beside
// this process's environment.
func (h *LabHost) Run(ctx context.Context, o *lab.Options) (lab.Status, error) {
	made, err := bytejson.Marshal(h.images)
	if err != nil {
		return lab.Status{}, err
	}
	env, err := h.nets.env()
	if err != nil {
		return lab.Status{}, err
	}
	nested := *o
	nested.Args = append([]string{h.self}, o.Args...)
	nested.Env = append(append(h.Typed(), envImages+"="+string(made)), append(env, o.Env...)...)
	return h.Exec(ctx, &nested)
}

// Exec runs any command in the nested host, with o.Env beside this process's environment. stile is in
// its PATH.
func (h *LabHost) Exec(ctx context.Context, o *lab.Options) (lab.Status, error) {
	nested := *o
	nested.Env = append(h.Env(), o.Env...)
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() {
		if watchPulse(ctx, h.Session(), pulseInterval, pulseLimit*nestedFactor) {
			end(errStuck)
		}
	}()
	status, err := h.Host.Run(ctx, &nested)
	if cause := context.Cause(ctx); errors.Is(cause, errStuck) {
		err = cause
	}
	return status, err
}

// errStuck says that the nested host does nothing any more, which no deadline inside it
// can notice.
var errStuck = errors.New("the lab's nested host does not answer any more and was ended; run again, and please report it if it happens often")

// Typed is what the environment of a stile in the nested host has besides Env where a stile outside runs it for its user:
// what it advises is typed outside.
func (h *LabHost) Typed() []string { return []string{envTyped + "=" + h.typed} }

// Program is this program's path in the nested host.
func (h *LabHost) Program() string {
	if h.self == lab.Self {
		return lab.Program
	}
	return h.self
}

// Env is the environment for commands in the nested host: this process's, but for what names places that can't
// be written there, and with stile in the PATH, and at its end programs for modules that this host may lack.
func (h *LabHost) Env() []string {
	env := []string{EnvNested + "=1"}
	for _, e := range os.Environ() {
		switch {
		case strings.HasPrefix(e, images.EnvCache+"="), strings.HasPrefix(e, images.EnvOuter+"="), strings.HasPrefix(e, control.EnvDir+"="), strings.HasPrefix(e, "TMPDIR="):
		case strings.HasPrefix(e, "PATH="):
			env = append(env, "PATH="+path.Dir(h.Program())+":"+strings.TrimPrefix(e, "PATH=")+":"+agent.ProgramDir)
		default:
			env = append(env, e)
		}
	}
	if owner := ownerEnv(); owner != "" {
		env = append(env, owner)
	}
	if kept, err := bytejson.Marshal(h.kept); err == nil { // names are texts
		env = append(env, envKept+"="+string(kept))
	}
	return append(env, images.EnvCache+"=/run/stile-cache", images.EnvOuter+"="+h.cache, control.EnvDir+"="+nestedRun)
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
