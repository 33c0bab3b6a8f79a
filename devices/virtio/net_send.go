package virtio

import (
	"github.com/stile-vmm/stile/devices/backend/network"
	"github.com/stile-vmm/stile/devices/virtq"
)

// netSender moves frames from the guest to the network. It belongs to its queue's goroutine.
type netSender struct {
	queue network.Queue
	chain virtq.Chain
}

func (s *netSender) serve(q *Queue) error { return q.Drain(&s.chain, s.send) }

// send sends one frame. What is no frame, or what the network does not take, is lost, as on a wire.
func (s *netSender) send(c *virtq.Chain) (uint32, error) {
	if n := c.ReadableLen(); n < network.MinFrame || n > network.MaxFrame {
		return 0, nil
	}
	_ = s.queue.Send(c.Readable()) // the guest cannot be told
	return 0, nil
}
