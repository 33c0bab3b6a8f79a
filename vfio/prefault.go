package vfio

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// prefaultPiece is what a worker of Prefault brings into place at a time: a multiple of the
// page sizes that guest RAM has, and little enough for progress to be seen.
const prefaultPiece = 64 << 20

// Prefault brings private or shared memory into place with several threads, so that Map,
// which does that with one, only has to pin it. Contents stay. done is called with the bytes
// in place, one call at a time; nil for none. It ends early with ctx. Kernels before 5.14
// cannot do it and leave it to Map; that is no error.
func Prefault(ctx context.Context, mem []byte, workers int, done func(bytes int)) error {
	p := prefault{rest: mem, done: done}
	var threads sync.WaitGroup
	for range max(workers, 1) {
		threads.Go(func() {
			for ctx.Err() == nil && p.piece() {
			}
		})
	}
	threads.Wait()
	return errors.Join(p.err, ctx.Err())
}

// prefault is what the workers share.
type prefault struct {
	mu    sync.Mutex
	rest  []byte // that no worker has taken
	total int    // bytes in place
	err   error
	done  func(bytes int)
}

// piece takes a piece and brings it into place. It returns false at the end.
func (p *prefault) piece() bool {
	p.mu.Lock()
	mem := p.rest[:min(prefaultPiece, len(p.rest))]
	p.rest = p.rest[len(mem):]
	p.mu.Unlock()
	if len(mem) == 0 {
		return false
	}
	err := populate(mem)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.err, p.rest = err, nil
		return false
	}
	p.total += len(mem)
	if p.done != nil {
		p.done(p.total)
	}
	return true
}

func populate(mem []byte) error {
	for {
		err := unix.Madvise(mem, unix.MADV_POPULATE_WRITE)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err == nil, errors.Is(err, unix.EINVAL):
			return nil
		}
		return fmt.Errorf("bring %d bytes of memory into place: %w", len(mem), err)
	}
}
