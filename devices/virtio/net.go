package virtio

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/stile-vmm/stile/devices/backend/network"
)

// Features of a network card (5.1.3).
const (
	netCsum      = 1 << 0 // the device finishes checksums
	netGuestCsum = 1 << 1 // the driver does
	netMTU       = 1 << 3
	netMAC       = 1 << 5
	netGuestTSO4 = 1 << 7
	netGuestTSO6 = 1 << 8
	netGuestECN  = 1 << 9
	netHostTSO4  = 1 << 11
	netHostTSO6  = 1 << 12
	netHostECN   = 1 << 13
	netMerge     = 1 << 15 // a received frame may take several buffers
	netStatus    = 1 << 16
	netControl   = 1 << 17
	netMultiple  = 1 << 22 // several pairs of queues
)

const (
	netClass      = 0x020000
	netConfigSize = 12
	netLinkUp     = 1

	netQueueSize        = 256
	netControlQueueSize = 64
)

// Net is a network card (5.1). Queues are a pair for each pair of the network, receive first, and behind them, if
// there is more than one pair, the control queue.
type Net struct {
	network network.Network
	mac     [6]byte
	config  [netConfigSize]byte

	pairs   []*netPair
	control netControlQueue

	features uint64 // negotiated; set while no Serve runs
	active   atomic.Int32
	waiter   sync.WaitGroup
}

// netPair is a pair of queues.
type netPair struct {
	receiver netReceiver
	sender   netSender
	queue    *Queue // the receiver's while active
}

// NewNet makes a card with that address on the network, which stays the caller's and must outlive the device.
func NewNet(mac [6]byte, n network.Network) (*Net, error) {
	queues := n.Queues()
	if len(queues) == 0 || len(queues) > network.MaxQueues {
		return nil, fmt.Errorf("network with %d pairs of queues, not 1 to %d", len(queues), network.MaxQueues)
	}
	if mac[0]&1 != 0 || mac == [6]byte{} {
		return nil, fmt.Errorf("%x is not the address of one card", mac)
	}
	d := &Net{network: n, mac: mac}
	for _, q := range queues {
		d.pairs = append(d.pairs, &netPair{receiver: newNetReceiver(q), sender: netSender{queue: q}})
	}
	copy(d.config[:], mac[:])
	binary.LittleEndian.PutUint16(d.config[6:], netLinkUp)
	binary.LittleEndian.PutUint16(d.config[8:], uint16(len(d.pairs)))
	binary.LittleEndian.PutUint16(d.config[10:], uint16(n.MTU()))
	return d, nil
}

// Info implements Device.
func (d *Net) Info() Info {
	info := Info{
		Type: TypeNet, Class: netClass, ConfigSize: netConfigSize,
		Features: netMAC | netMTU | netMerge | netStatus | offloadFeatures(d.network.Offloads()),
	}
	for range d.pairs {
		info.QueueSizes = append(info.QueueSizes, netQueueSize, netQueueSize)
	}
	if len(d.pairs) > 1 {
		info.Features |= netControl | netMultiple
		info.QueueSizes = append(info.QueueSizes, netControlQueueSize)
	}
	return info
}

// netOffloads says by which features an offload is offered.
var netOffloads = [...]struct {
	offload     network.Offload
	host, guest uint64
}{
	{network.Csum, netCsum, netGuestCsum},
	{network.TSO4, netHostTSO4, netGuestTSO4},
	{network.TSO6, netHostTSO6, netGuestTSO6},
	{network.ECN, netHostECN, netGuestECN},
}

func offloadFeatures(o network.Offload) uint64 {
	var features uint64
	for _, n := range netOffloads {
		if o&n.offload != 0 {
			features |= n.host | n.guest
		}
	}
	return features
}

// guestOffloads returns what the driver takes undone.
func guestOffloads(features uint64) network.Offload {
	var o network.Offload
	for _, n := range netOffloads {
		if features&n.guest != 0 {
			o |= n.offload
		}
	}
	if o&network.Csum == 0 {
		return 0 // the others depend on it (5.1.3.1)
	}
	return o
}

// ReadConfig implements Device.
func (d *Net) ReadConfig(off int, p []byte) { copy(p, d.config[off:]) }

// WriteConfig implements Device; nothing there is the driver's to change.
func (*Net) WriteConfig(int, []byte) {}

// Activate implements Device.
func (d *Net) Activate(a *Activation) error {
	if err := d.network.SetOffloads(guestOffloads(a.Features)); err != nil {
		return err
	}
	if err := d.network.SetActive(1); err != nil {
		return err
	}
	d.features = a.Features
	d.active.Store(1)
	for i, p := range d.pairs {
		p.queue = a.Queues[2*i]
		p.receiver.begin(a.Features)
	}
	d.waiter.Go(func() {
		<-a.Done
		for _, p := range d.pairs {
			p.receiver.network.Interrupt()
		}
	})
	return nil
}

// controlIndex is the control queue's number: behind the pairs that the driver knows of (5.1.2).
func (d *Net) controlIndex() int {
	switch {
	case d.features&netControl == 0:
		return -1
	case d.features&netMultiple == 0:
		return 2
	}
	return 2 * len(d.pairs)
}

// Serve implements Device.
func (d *Net) Serve(q *Queue) error {
	i := q.Index()
	if i == d.controlIndex() {
		return d.serveControl(q)
	}
	if i/2 >= len(d.pairs) || i > 1 && d.features&netMultiple == 0 {
		return nil // a queue that the driver said it does not know
	}
	p := d.pairs[i/2]
	if i%2 == 1 {
		return p.sender.serve(q)
	}
	if i/2 >= int(d.active.Load()) {
		return nil // activate rings
	}
	return p.receiver.serve(q, func() bool { return i/2 < int(d.active.Load()) })
}

// setActive changes how many pairs are in use.
func (d *Net) setActive(n int) error {
	if err := d.network.SetActive(n); err != nil {
		return err
	}
	d.active.Store(int32(n))
	for _, p := range d.pairs {
		p.receiver.network.Interrupt()
		if p.queue == nil {
			continue
		}
		if err := p.queue.Kick(); err != nil {
			return err
		}
	}
	return nil
}

// Reset implements Device.
func (d *Net) Reset() {
	d.waiter.Wait()
	for _, p := range d.pairs {
		p.queue = nil
	}
}
