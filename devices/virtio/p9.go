package virtio

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"

	"github.com/stile-vmm/stile/devices/backend/share"
	"github.com/stile-vmm/stile/devices/virtq"
)

const (
	p9Class    = 0x018000 // mass storage, other
	p9MountTag = 1 << 0   // feature: the configuration has the tag (VIRTIO_9P_MOUNT_TAG, linux/virtio_9p.h)

	// p9QueueSize is VIRTQUEUE_NUM of Linux's net/9p/trans_virtio.c: a message may take that
	// many buffers.
	p9QueueSize = 128

	// p9Workers is how many requests of a guest are handled at the same time. Each that was
	// ever needed keeps 50 to 80 KiB of buffers.
	p9Workers = 8

	// MaxP9Tag is the longest mount tag in bytes that Linux can be given in a mount command.
	MaxP9Tag = 255
)

// P9 is a virtio 9P transport (device 9): a folder that the guest mounts with v9fs by its tag.
// One session of the share lasts from one reset to the next.
//
// The queue's goroutine takes requests in order. It answers itself what the host has at hand, which is most of what a guest
// asks, and hands the rest to workers, because the host's file system may take its time. Requests are decoded from a copy; file data
// goes between host file and guest memory directly. Responses return in the order in which they are done.
type P9 struct {
	share  *share.Share
	config []byte // tag_len[2] tag

	queue   *Queue
	session *share.Session
	made    int             // requests, each of which has a worker; Serve's alone
	idle    chan *p9Request // those that carry nothing
	work    chan *p9Request
	workers sync.WaitGroup
}

// p9Request is a chain and the 9P call that it carries.
type p9Request struct {
	chain virtq.Chain
	call  share.Call
}

// NewP9 makes a device for the share, which stays the caller's and must outlive the device.
func NewP9(tag string, s *share.Share) (*P9, error) {
	if tag == "" || len(tag) > MaxP9Tag {
		return nil, fmt.Errorf("9P mount tag %q: want 1 to %d bytes", tag, MaxP9Tag)
	}
	config := binary.LittleEndian.AppendUint16(nil, uint16(len(tag)))
	return &P9{share: s, config: append(config, tag...)}, nil
}

// Info implements Device.
func (d *P9) Info() Info {
	return Info{
		Type: Type9P, Class: p9Class, ConfigSize: len(d.config),
		Features: p9MountTag, QueueSizes: []uint16{p9QueueSize},
	}
}

// ReadConfig implements Device.
func (d *P9) ReadConfig(off int, p []byte) { copy(p, d.config[off:]) }

// WriteConfig implements Device; the tag is not the guest's to change.
func (*P9) WriteConfig(int, []byte) {}

// Activate implements Device.
func (d *P9) Activate(a *Activation) error {
	d.queue = a.Queues[0]
	d.session = d.share.NewSession()
	d.made = 0
	d.idle, d.work = make(chan *p9Request, p9Workers), make(chan *p9Request)
	return nil
}

// Serve implements Device.
func (d *P9) Serve(q *Queue) error {
	for !q.Stopped() {
		q.DisableNotify()
		for more := true; more; {
			var err error
			if more, err = d.next(q); err != nil {
				return err
			}
		}
		if !q.EnableNotify() {
			return nil
		}
	}
	return nil
}

// next answers the next request, or gives it to a worker, and reports whether there was one. It waits while all workers are
// busy.
func (d *P9) next(q *Queue) (bool, error) {
	r := d.request(q)
	if r == nil {
		return false, nil
	}
	ok, err := q.Next(&r.chain)
	if !ok {
		d.idle <- r
		return false, err
	}
	r.call.In, r.call.Out = r.chain.Readable(), r.chain.Writable()
	d.session.Begin(&r.call)
	if n, done := d.session.Try(&r.call); done {
		d.finish(r, n)
	} else {
		d.work <- r
		runtime.Gosched() // the worker goes on at once on this thread; waking another for it takes longer than most requests
	}
	return true, nil
}

// request returns an idle request, nil when the device is being reset.
func (d *P9) request(q *Queue) *p9Request {
	select {
	case r := <-d.idle:
		return r
	default:
	}
	if d.made < p9Workers {
		d.made++
		d.workers.Go(d.worker)
		return new(p9Request)
	}
	select {
	case r := <-d.idle:
		return r
	case <-q.Done():
		return nil
	}
}

// worker handles requests until the reset.
func (d *P9) worker() {
	for r := range d.work {
		d.finish(r, d.session.Handle(&r.call))
	}
}

// finish gives the guest a response of n bytes: none where it left no room for any.
func (d *P9) finish(r *p9Request, n int) {
	d.queue.Release(&r.chain, uint32(n))
	d.session.Finish(&r.call)
	_ = d.queue.Interrupt() // fails only when the VM is ending
	d.idle <- r
}

// Reset implements Device. It waits for requests under way, which the host's file system may
// delay.
func (d *P9) Reset() {
	close(d.work)
	d.workers.Wait()
	d.session.Close()
	d.session, d.queue, d.idle, d.work = nil, nil, nil, nil
}
