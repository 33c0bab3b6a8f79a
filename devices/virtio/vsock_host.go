package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/stile-vmm/stile/devices/backend/vhost"
	"github.com/stile-vmm/stile/internal/guestmem"
)

// vsockSeqPacket is the feature of sockets that keep messages apart (5.10.3).
const vsockSeqPacket = 1 << 1

// HostVsock is a virtio socket device (5.10) that the host's kernel serves: it joins the guest to the host's AF_VSOCK. Data
// and interrupts do not pass this process.
type HostVsock struct {
	kernel *vhost.Vsock
	memory []vhost.Region
}

// NewHostVsock makes the device of kernel, for a guest with that memory.
func NewHostVsock(kernel *vhost.Vsock, memory *guestmem.Memory) (*HostVsock, error) {
	if lacks := transportFeatures &^ kernel.Features(); lacks != 0 {
		return nil, fmt.Errorf("vsock: the host's kernel lacks virtio features %#x", lacks)
	}
	v := &HostVsock{kernel: kernel}
	for _, r := range memory.Regions() {
		v.memory = append(v.memory, vhost.Region{Start: r.Start, Size: uint64(len(r.Bytes)), Addr: r.Addr()})
	}
	return v, nil
}

// Info implements Device.
func (v *HostVsock) Info() Info {
	return Info{
		Type: TypeVsock, Class: vsockClass, Features: vsockFeature | v.kernel.Features()&vsockSeqPacket, ConfigSize: vsockConfigSize,
		QueueSizes: []uint16{vsockQueueSize, vsockQueueSize, vsockEvents}, Vectors: 2,
	}
}

// ReadConfig implements Device.
func (v *HostVsock) ReadConfig(off int, p []byte) {
	var b [vsockConfigSize]byte
	binary.LittleEndian.PutUint64(b[:], v.kernel.CID())
	copy(p, b[off:])
}

// WriteConfig implements Device; the configuration can't be written.
func (*HostVsock) WriteConfig(int, []byte) {}

// Activate implements Device. Vectors are those that the driver has chosen before: the kernel knows of no later choice.
func (v *HostVsock) Activate(a *Activation) error {
	var rings [2]vhost.Ring
	for i := range rings {
		q := a.Queues[i]
		if q == nil {
			return fmt.Errorf("vsock: the driver enabled no queue %d", i)
		}
		call, err := q.callFD()
		if err != nil {
			return err
		}
		desc, avail, used := q.Rings()
		rings[i] = vhost.Ring{Size: q.Size(), Desc: desc, Avail: avail, Used: used, Kick: q.bell.Int(), Call: call}
	}
	if err := v.kernel.Start(a.Features, v.memory, rings); err != nil {
		return fmt.Errorf("vsock: %w", errors.Join(err, v.kernel.Stop()))
	}
	return nil
}

// Serve implements Device: doorbells are the kernel's, and nothing happens that the event queue would tell.
func (*HostVsock) Serve(q *Queue) error {
	<-q.Done()
	return nil
}

// Reset implements Device. The host's ends of connections learn of it when the next driver refuses their packets.
func (v *HostVsock) Reset() {
	_ = v.kernel.Stop() // fails for nobody but another process than the one that opened it
}
