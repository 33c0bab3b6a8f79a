package vmm

import (
	"testing"
	"time"

	"github.com/stile-vmm/stile/devices/backend/share"
	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
	"github.com/stile-vmm/stile/devices/virtq"
)

// stuck is a device whose requests never end.
type stuck struct{ serving, release chan struct{} }

func (*stuck) Info() virtio.Info {
	return virtio.Info{Type: virtio.Type9P, Class: 0x018000, QueueSizes: []uint16{8}}
}
func (*stuck) ReadConfig(int, []byte)            {}
func (*stuck) WriteConfig(int, []byte)           {}
func (*stuck) Activate(*virtio.Activation) error { return nil }
func (*stuck) Reset()                            {}

func (s *stuck) Serve(q *virtio.Queue) error {
	close(s.serving)
	<-s.release
	return q.Drain(new(virtq.Chain), func(*virtq.Chain) (uint32, error) { return 0, nil })
}

// TestFolderThatDoesNotAnswer: the end of a VM leaves it, says so, and frees the guest's memory once it has answered.
func TestFolderThatDoesNotAnswer(t *testing.T) {
	m := virtiotest.New(t)
	dev := &stuck{make(chan struct{}), make(chan struct{})}
	transport, driver := m.Plug(dev)
	driver.Start(virtio.FeatureVersion1, 2)
	<-dev.serving
	shared, err := share.New(share.Config{Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	notices := 0
	d := &devices{transports: []*virtio.Transport{transport}, folders: []folder{{
		share: shared, transport: transport, patience: 10 * time.Millisecond, notice: func() { notices++ },
	}}}
	for range 2 {
		if err := d.close(); err != nil {
			t.Fatal(err)
		}
	}
	if notices != 1 || len(d.left) != 1 {
		t.Errorf("%d notices, %d folders left", notices, len(d.left))
	}
	close(dev.release)
	<-d.left[0]
}
