package virtio

import (
	"crypto/rand"

	"github.com/stile-vmm/stile/devices/virtq"
)

const (
	rngClass = 0x00ff00
	rngQueue = 8
	// rngMax bounds the bytes given for one request; the guest asks again for more (5.4.6.1
	// lets the device give fewer than asked).
	rngMax = 16 << 10
)

// RNG is a virtio entropy source (5.4) backed by the host's random numbers.
type RNG struct{ chain virtq.Chain }

// NewRNG makes an entropy source.
func NewRNG() *RNG { return &RNG{} }

// Info implements Device.
func (*RNG) Info() Info {
	return Info{Type: TypeEntropy, Class: rngClass, QueueSizes: []uint16{rngQueue}}
}

// ReadConfig implements Device; there is no configuration.
func (*RNG) ReadConfig(int, []byte) {}

// WriteConfig implements Device; there is no configuration.
func (*RNG) WriteConfig(int, []byte) {}

// Activate implements Device.
func (*RNG) Activate(*Activation) error { return nil }

// Reset implements Device.
func (*RNG) Reset() {}

// Serve implements Device.
func (r *RNG) Serve(q *Queue) error { return q.Drain(&r.chain, fillRandom) }

func fillRandom(c *virtq.Chain) (uint32, error) {
	left := rngMax
	for _, seg := range c.Writable() {
		n := min(len(seg), left)
		if _, err := rand.Read(seg[:n]); err != nil {
			return 0, err
		}
		left -= n
	}
	return uint32(rngMax - left), nil
}
