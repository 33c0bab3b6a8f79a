package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/limit"
	"github.com/stile-vmm/stile/internal/session"
)

// resumeLimit is how long a resume may take. It takes 0.3 s on two ordinary cores; a
// machine that was saved in a bad moment would wait for ever.
const resumeLimit = time.Minute

// Config says which nested host is wanted. The zero value, but for Dir and Image, will do.
type Config struct {
	// Dir is stile's cache folder; states are kept in its folder "lab".
	Dir string
	// Image is what the nested host boots.
	Image *Image
	// QEMU is the binary, found by FindQEMU when nil.
	QEMU *QEMU

	// GuestMem is the memory, in bytes, of the largest guest to run in the nested host; 0: 1 GiB.
	GuestMem int64
	// Mem is the nested host's own memory in bytes, whole MiB; 0: what GuestMem needs.
	Mem int64
	// CPUs is the number of the nested host's processors; 0: one, which is fastest.
	CPUs int

	// Topology is what the nested host has of IOMMU and devices; nil: neither.
	Topology *Topology

	// Current refuses a state that was saved with another agent than Image's. It would do, but each
	// resume has to give it the agent, which takes half a second.
	Current bool

	// Writable are files and folders of the host that the nested host may change. All else it sees copy on write.
	Writable []string
	// Keep are paths of the host that the nested one's own /run and /dev don't hide.
	Keep []string

	// Progress gets a line for people when something takes long.
	Progress io.Writer
	// Console gets a copy of the nested host's kernel console.
	Console io.Writer
}

// Phases says where the time of a resume went.
type Phases struct {
	State   time.Duration `json:"state"`   // checking the saved state, or building it
	QEMU    time.Duration `json:"qemu"`    // QEMU's start
	Load    time.Duration `json:"load"`    // giving it the state
	Session time.Duration `json:"session"` // the agent's hello, after a push of its binary if it is another
	Setup   time.Duration `json:"setup"`   // clock, 9p, overlay
}

// Host is a resumed nested host. Its methods may be called concurrently.
type Host struct {
	proc    *process
	session *session.Session
	phases  Phases
	meta    Meta
	close   sync.Once
}

// Resume resumes a nested host, and builds its state first where there is none. A state that
// doesn't resume is built anew, once, unless a resource limit is what failed: the error is a limit.Error then. ctx bounds Resume alone; the Host is its
// caller's to close.
func Resume(ctx context.Context, c *Config) (*Host, error) {
	p, err := c.plan()
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	st, err := p.state(ctx, "")
	if err != nil {
		return nil, err
	}
	h, err := p.resume(ctx, st, c.Console, begin)
	if err == nil || ctx.Err() != nil || !errors.As(err, new(*againError)) {
		return h, err
	}
	p.progress("%v", err)
	begin = time.Now()
	if st, err = p.state(ctx, st.meta.ID); err != nil {
		return nil, err
	}
	return p.resume(ctx, st, c.Console, begin)
}

// plan checks the configuration and finds out which state it needs.
func (c *Config) plan() (*plan, error) {
	m, err := c.machine()
	if err != nil {
		return nil, err
	}
	p := &plan{qemu: c.QEMU, machine: m, image: c.Image, keep: c.Keep, progress: func(format string, args ...any) {
		if c.Progress != nil {
			fmt.Fprintf(c.Progress, "stile: "+format+"\n", args...)
		}
	}}
	if p.writable, err = findWritable(c.Writable); err != nil {
		return nil, err
	}
	if p.qemu == nil {
		if p.qemu, err = FindQEMU(); err != nil {
			return nil, err
		}
	}
	identity, err := p.image.identity()
	if err != nil {
		return nil, err
	}
	p.key = m.key(p.qemu, identity)
	if c.Current {
		if p.agent, err = agentproto.HashFile(c.Image.Agent); err != nil {
			return nil, err
		}
	}
	p.store, err = OpenStore(filepath.Join(c.Dir, "lab"))
	return p, err
}

// start starts the machine with what stands behind it.
func (p *plan) start(b backend, extra []string, console io.Writer, m *migration) (*process, error) {
	media, err := p.machine.Topology.openMedia(p.store.dir)
	if err != nil {
		return nil, err
	}
	defer func() { media.Close() }() // QEMU has descriptors of its own
	if err := media.useRAM(&b); err != nil {
		return nil, err
	}
	b.media = media
	proc, err := p.qemu.start(&p.machine, b, extra, console, m.observe)
	return proc, limit.Explain(err)
}

// resume resumes st and closes it.
func (p *plan) resume(ctx context.Context, st *saved, console io.Writer, begin time.Time) (*Host, error) {
	defer st.Close()
	h := &Host{meta: st.meta}
	lap := func(d *time.Duration) {
		now := time.Now()
		*d, begin = now.Sub(begin), now
	}
	lap(&h.phases.State)
	migration := newMigration()
	b := p.image.backend(filepath.Join(st.dir, ramFile), p.store.empty(), false, st.meta.NoSandbox)
	b.rw = p.writable.folders
	proc, err := p.start(b, []string{"-incoming", "defer"}, console, migration)
	if err != nil {
		return nil, err
	}
	h.proc = proc
	if err := p.connect(ctx, h, st, migration, lap); err != nil {
		proc.kill()
		return nil, fmt.Errorf("resume the lab: %w", err)
	}
	return h, nil
}

// connect loads the state and sets the machine up.
func (p *plan) connect(ctx context.Context, h *Host, st *saved, migration *migration, lap func(*time.Duration)) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, resumeLimit, fmt.Errorf("the saved machine did not answer within %v", resumeLimit))
	defer cancel()
	ctx, unbind := h.proc.bind(ctx)
	defer unbind()
	loads := false // or QEMU itself doesn't start, which no other state changes
	defer func() { err = again(loads, h.proc.explain(ctx, err)) }()

	// The first line to the agent waits in the socket: hashing the binary costs no time beside QEMU's start.
	told := make(chan error, 1)
	go func() { told <- session.ResumeLab(ctx, h.proc.agent, st.meta.Agent, p.image.Agent) }()

	if err := migration.prepare(ctx, h.proc); err != nil {
		return err
	}
	lap(&h.phases.QEMU)
	loads = true
	if err := migration.load(ctx, h.proc, st.stream); err != nil {
		return err
	}
	lap(&h.phases.Load)
	plugged := make(chan error, 1)
	go func() { plugged <- p.plugIn(ctx, h.proc) }()
	if err := <-told; err != nil {
		return err
	}
	if h.session, err = session.Dial(ctx, h.proc.agent); err != nil {
		return err
	}
	if err := <-plugged; err != nil {
		return err
	}
	lap(&h.phases.Session)
	defer lap(&h.phases.Setup)
	return h.session.Setup(ctx, p.setup())
}

// plugIn gives the machine the devices that can't be saved.
func (p *plan) plugIn(ctx context.Context, proc *process) error {
	for _, device := range p.machine.Topology.late() {
		if err := proc.qmp.Execute(ctx, "device_add", device, nil); err != nil {
			return fmt.Errorf("plug in %v: %w", device["driver"], err)
		}
	}
	return nil
}

// setup makes the host's files L1's own, copy on write. /tmp is a share of its own because the agent
// puts an empty one over the root's.
func (p *plan) setup() *agentproto.Setup {
	mounts := []agentproto.Mount{{Kind: agentproto.Mount9P, Source: tmpTag, Target: "/tmp", Overlay: true}}
	return &agentproto.Setup{
		Hostname: "stile-lab",
		Root:     agentproto.Mount{Kind: agentproto.Mount9P, Source: rootTag, Overlay: true},
		Mounts:   append(mounts, p.writable.mounts()...),
		Modules:  p.image.Modules,
		Program:  Program,
		Keep:     p.keep,
		PCI:      p.machine.Topology.addresses(),
	}
}

// Session is the way to run commands. It is the Host's to close.
func (h *Host) Session() *session.Session { return h.session }

// Meta describes the state that was resumed.
func (h *Host) Meta() Meta { return h.meta }

// Phases says where the time of the resume went.
func (h *Host) Phases() Phases { return h.phases }

// logLines is how many lines of each log Log returns.
const logLines = 30

// Log returns the last lines of what QEMU and the nested host's kernel have said.
func (h *Host) Log() []byte {
	lines := append(h.proc.log.lines(logLines), h.proc.console.lines(logLines)...)
	return []byte(strings.Join(lines, "\n"))
}

// Err returns why QEMU has ended, nil while it runs.
func (h *Host) Err() error {
	select {
	case <-h.proc.child.Done():
		return h.proc.failure()
	default:
		return nil
	}
}

// Close ends the nested host with all that runs in it. Further calls do nothing.
func (h *Host) Close() error {
	h.close.Do(func() {
		// Before the session: its agent would spend time on powering off.
		h.proc.kill()
		h.session.Close()
	})
	return nil
}
