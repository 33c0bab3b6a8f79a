package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stile-vmm/stile/devices/backend/disk"
	"github.com/stile-vmm/stile/vmm"
)

// slowGuest writes a page each time that it is asked, until it has written all.
type slowGuest struct {
	asked, all atomic.Int64
	off        chan struct{}
}

func (*slowGuest) PowerOff(context.Context) error { return nil }

func (g *slowGuest) Pull(_ context.Context, path string, w io.Writer) (fs.FileMode, error) {
	n := g.asked.Add(1)
	if n == g.all.Load() {
		close(g.off)
	}
	_, err := fmt.Fprintf(w, "nr_dirty 7\nnr_written %d\n", min(n, g.all.Load()))
	return 0, errors.Join(err, map[bool]error{true: nil, false: fs.ErrNotExist}[path == "/proc/vmstat"])
}

// TestPowerOff: a guest that goes on to write out what it has cached has the time that it takes; one that does nothing has not.
func TestPowerOff(t *testing.T) {
	const grace = 60 * time.Millisecond
	slow := &slowGuest{off: make(chan struct{})}
	slow.all.Store(10 * stallTicks)
	if err := powerOff(t.Context(), slow, slow.off, grace); err != nil {
		t.Errorf("a guest that writes: %v", err)
	}
	stays := &slowGuest{}
	err := powerOff(t.Context(), stays, nil, grace)
	if !errors.Is(err, errStaysOn) {
		t.Errorf("a guest that stays on: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := powerOff(ctx, stays, nil, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	for _, test := range []struct {
		disk vmm.Disk
		want bool
	}{{vmm.Disk{}, true}, {vmm.Disk{Options: disk.Options{ReadOnly: true}}, false}, {vmm.Disk{Options: disk.Options{COW: true}}, false}} {
		s := Spec{Disks: []vmm.Disk{test.disk}}
		if got := s.lost(err); (got != nil) != test.want {
			t.Errorf("%+v: %v", test.disk, got)
		}
	}
}

func FuzzWritten(f *testing.F) {
	f.Add("nr_free 1\nnr_written 12\n")
	f.Fuzz(func(t *testing.T, text string) {
		var b bounded
		if _, err := io.WriteString(&b, text); err == nil && b.Len() > vmstatLimit {
			t.Error("too much")
		}
		parseWritten(text)
	})
}
