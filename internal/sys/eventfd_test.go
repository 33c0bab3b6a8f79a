package sys_test

import (
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/stile-vmm/stile/internal/sys"
)

func TestEventFDCounts(t *testing.T) {
	e, err := sys.NewEventFD()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if n := e.TryWait(); n != 0 {
		t.Errorf("a new counter has %d", n)
	}
	for range 3 {
		if err := e.Signal(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := e.Wait(); n != 3 || err != nil {
		t.Errorf("Wait = %d, %v, want 3", n, err)
	}
}

// TestEventFDClose closes a counter under several waiters.
func TestEventFDClose(t *testing.T) {
	for range 50 {
		e, err := sys.NewEventFD()
		if err != nil {
			t.Fatal(err)
		}
		var waiters sync.WaitGroup
		for range 3 {
			waiters.Go(func() {
				if _, err := e.Wait(); !errors.Is(err, os.ErrClosed) {
					t.Errorf("Wait returned %v, want os.ErrClosed", err)
				}
			})
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		waiters.Wait()
		if err := e.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		if err := e.Signal(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Signal after Close returned %v", err)
		}
	}
}

func BenchmarkEventFDWake(b *testing.B) {
	ping, err := sys.NewEventFD()
	if err != nil {
		b.Fatal(err)
	}
	pong, err := sys.NewEventFD()
	if err != nil {
		b.Fatal(err)
	}
	defer pong.Close()
	go func() {
		for {
			if _, err := ping.Wait(); err != nil {
				return
			}
			_ = pong.Signal()
		}
	}()
	defer ping.Close()
	b.ReportAllocs()
	for b.Loop() {
		_ = ping.Signal()
		if _, err := pong.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}
