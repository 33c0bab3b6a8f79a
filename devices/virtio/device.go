package virtio

// Device types (virtio 1.3, 5).
const (
	TypeNet     = 1
	TypeBlock   = 2
	TypeConsole = 3
	TypeEntropy = 4
	TypeBalloon = 5
	Type9P      = 9
	TypeVsock   = 19
)

// Feature bits that the transport handles (virtio 1.3, 6). All are offered for every device.
const (
	FeatureIndirect = 1 << 28
	FeatureEventIdx = 1 << 29
	FeatureVersion1 = 1 << 32

	transportFeatures = FeatureIndirect | FeatureEventIdx | FeatureVersion1
)

// Info is what a device is. It must not change.
type Info struct {
	Type       uint16   // TypeConsole …
	Class      uint32   // PCI class code, 0xCCSSPP
	Features   uint64   // the device's own feature bits; the transport adds its bits
	QueueSizes []uint16 // the largest size of each queue, powers of two
	ConfigSize int      // bytes of device configuration, 0 for none
	// Vectors is the size of the MSI-X table; 0 stands for one per queue and one for
	// configuration changes. Each vector costs a booting guest about 8 exits. Linux
	// shares one vector between all queues where they do not suffice; the least is 2.
	Vectors int
}

// Device is what stands behind a transport. Activate and Reset alternate and are never
// called concurrently; between them Serve runs, at most once at a time per queue.
type Device interface {
	Info() Info
	// ReadConfig and WriteConfig access the device's configuration. off+len(p) is
	// within ConfigSize. They may be called at any time, also by several vCPUs.
	ReadConfig(off int, p []byte)
	WriteConfig(off int, p []byte)
	// Activate is called when the driver is ready. An error makes the device ask for a
	// reset. It must not block.
	Activate(a *Activation) error
	// Serve is called on the queue's own goroutine, first after Activate and then after
	// each doorbell. It takes all available chains, as Queue.Drain does. An error makes
	// the device ask for a reset. When a.Done closes it must return soon.
	Serve(q *Queue) error
	// Reset is called after Activate succeeded, when no Serve is running and none
	// will: the driver reset the device, or the VM ends. When it returns, the device
	// does not touch the queues and their chains any more. It may be called on a vCPU
	// and must not wait for the guest.
	Reset()
}

// Activation is what a device gets when the driver is ready. It is valid until Reset.
type Activation struct {
	Features  uint64          // negotiated, all 64 bits
	Queues    []*Queue        // by index, nil where the driver enabled none
	Done      <-chan struct{} // closed when the reset begins
	Transport *Transport
}
