package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/stile-vmm/stile/internal/limit"
	"github.com/stile-vmm/stile/internal/session"
)

const (
	// buildLimit is how long L1 may take to boot. It takes 7 s on two ordinary cores.
	buildLimit = 5 * time.Minute
	// buildAttempts is how often L1 may die while it boots: a kernel that measures clocks on a host
	// that has no time for it finds them broken.
	buildAttempts = 3
	// settleTime lets L1's kernel end what it puts off during the boot, once for all runs.
	settleTime = 300 * time.Millisecond
)

// errNoSandbox says that QEMU refused to start because its build has no sandbox.
var errNoSandbox = errors.New("this QEMU has no sandbox")

// plan is a machine and all that its state depends on.
type plan struct {
	store    *Store
	qemu     *QEMU
	machine  Machine
	image    *Image
	writable writable
	keep     []string // see Config.Keep
	key      string
	agent    string // the hash of the agent that the state must hold, "" for any
	progress func(format string, args ...any)
}

// state returns the saved state, and boots and saves the machine where there is none that
// can be used. bad is the ID of one that can't be, though it looks well.
func (p *plan) state(ctx context.Context, bad string) (*saved, error) {
	st, err := p.usable(bad)
	if err == nil || errors.As(err, new(*limit.Error)) {
		return st, err
	}
	lock, err := p.store.lock(ctx, func() { p.progress("waiting for the lab, which another stile builds") })
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	st, err = p.usable(bad) // the other one may have made it
	if err == nil || errors.As(err, new(*limit.Error)) {
		return st, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		p.progress("%v", err)
	}
	p.store.sweep()
	if err := p.store.checkSpace(p.machine.Mem); err != nil {
		return nil, err
	}
	p.progress("building the lab (once, about 10 s) ...")
	if err := p.buildPatiently(ctx); err != nil {
		return nil, fmt.Errorf("build the lab: %w", limit.Explain(err))
	}
	// What is too much must not keep the run from its state.
	_, _ = p.store.prune(keepStates, p.key)
	return p.store.load(p.key)
}

// againError is in errors after which another attempt may succeed.
type againError struct{ err error }

func (e *againError) Error() string { return e.err.Error() }
func (e *againError) Unwrap() error { return e.err }

// again makes err an againError if another attempt may help. A limit is the same at the next one.
func again(may bool, err error) error {
	if err = limit.Explain(err); err == nil || !may || errors.As(err, new(*limit.Error)) {
		return err
	}
	// Of what failed inside the machine there are words only.
	if said := limit.Said(err.Error()); said != "" {
		return &limit.Error{Err: err, Limit: said}
	}
	return &againError{err}
}

// buildPatiently builds, again if the machine dies.
func (p *plan) buildPatiently(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		err := p.build(ctx)
		if err == nil || attempt == buildAttempts || ctx.Err() != nil || !errors.As(err, new(*againError)) {
			return err
		}
		p.progress("%v; trying again", err)
	}
}

// usable loads the state unless it is the one known to be bad.
func (p *plan) usable(bad string) (*saved, error) {
	st, err := p.store.load(p.key)
	if err != nil {
		return nil, err
	}
	if st.meta.ID == bad {
		st.Close()
		return nil, fmt.Errorf("%w: %s can't be resumed", errDamaged, st.dir)
	}
	if p.agent != "" && st.meta.Agent != p.agent {
		st.Close()
		return nil, fmt.Errorf("the lab's saved state %s was made by another stile", st.dir)
	}
	return st, nil
}

// build boots the machine in a folder of its own and saves it. The store's lock is held.
func (p *plan) build(ctx context.Context) (err error) {
	version, err := p.qemu.Version(ctx)
	if err != nil {
		return err
	}
	dir, err := p.store.tempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) // nothing is left of it once it is published
	meta := Meta{
		Key: p.key, Created: time.Now(), QEMU: version.String(), Mem: p.machine.Mem, CPUs: p.machine.CPUs,
		Topology: p.machine.Topology.Name, Kernel: p.image.Kernel,
	}
	stream, err := p.bootAndSave(ctx, dir, &meta)
	if errors.Is(err, errNoSandbox) {
		meta.NoSandbox = true
		stream, err = p.bootAndSave(ctx, dir, &meta)
	}
	if err != nil {
		return err
	}
	if err := writeState(dir, meta, stream); err != nil {
		return err
	}
	return p.store.publish(dir, p.key)
}

// bootAndSave leaves the machine's memory in dir, and returns the rest of its state.
func (p *plan) bootAndSave(ctx context.Context, dir string, meta *Meta) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, buildLimit, fmt.Errorf("the machine took longer than %v", buildLimit))
	defer cancel()
	ram, initramfs := filepath.Join(dir, ramFile), filepath.Join(dir, "initramfs")
	if err := makeSparse(ram, p.machine.Mem); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := p.image.writeInitramfs(initramfs); err != nil {
		return nil, err
	}
	defer os.Remove(initramfs)

	begin := time.Now()
	migration := newMigration()
	args := []string{"-kernel", p.image.Kernel, "-initrd", initramfs, "-append", p.machine.Cmdline}
	proc, err := p.start(p.image.backend(ram, p.store.empty(), true, meta.NoSandbox), args, nil, migration)
	if err != nil {
		return nil, err
	}
	defer proc.kill()
	ctx, unbind := proc.bind(ctx)
	defer unbind()

	if err = migration.prepare(ctx, proc); err != nil {
		err = proc.explain(ctx, err)
		if !meta.NoSandbox && proc.lacksSandbox() {
			return nil, fmt.Errorf("%w: %w", errNoSandbox, err)
		}
		return nil, err
	}
	stream, err := awaitAndSave(ctx, proc, migration, begin, meta)
	err = proc.explain(ctx, err)
	return stream, again(errors.Is(err, errQEMUEnded), err)
}

func awaitAndSave(ctx context.Context, proc *process, m *migration, begin time.Time, meta *Meta) (stream []byte, err error) {
	if meta.Agent, err = session.AwaitLab(ctx, proc.agent); err != nil {
		return nil, err
	}
	meta.BootTime = time.Since(begin).Seconds()
	select {
	case <-time.After(settleTime):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return m.save(ctx, proc)
}

// makeSparse makes a file of size bytes without any blocks.
func makeSparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}
