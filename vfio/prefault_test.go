package vfio

import (
	"context"
	"errors"
	"testing"

	"github.com/stile-vmm/stile/internal/sys"
	"golang.org/x/sys/unix"
)

func TestPrefault(t *testing.T) {
	mem := memory(t, 2*prefaultPiece+8192)
	mem[5] = 42
	var progress []int
	check(t, Prefault(t.Context(), mem, 2, func(n int) { progress = append(progress, n) }))
	if len(progress) != 3 || progress[2] != len(mem) || progress[0] >= progress[1] {
		t.Errorf("progress %v of %d", progress, len(mem))
	}
	if mem[5] != 42 {
		t.Error("contents changed")
	}
	resident := make([]byte, len(mem)/unix.Getpagesize())
	check(t, sys.Mincore(mem, resident))
	for i, r := range resident {
		if r&1 == 0 {
			t.Fatalf("page %d is not in place", i)
		}
	}
}

func TestPrefaultEndsEarly(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Prefault(ctx, memory(t, 4096), 1, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	m, err := sys.MapAnonymous(8192)
	check(t, err)
	mem := m.Bytes()
	check(t, m.Close())
	if err := Prefault(t.Context(), mem, 4, nil); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("memory that is not there: %v", err)
	}
}
