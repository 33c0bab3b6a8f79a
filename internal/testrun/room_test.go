package testrun

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/control"
)

// TestRoom: what does not fit waits, and gets what others give back.
func TestRoom(t *testing.T) {
	r := &Room{path: filepath.Join(t.TempDir(), "room"), machines: 3, units: 4, patience: time.Hour}
	take := func(memory uint64) (*Place, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		return r.Take(ctx, memory, nil)
	}
	first, err := take(roomUnit) // and what is beside the guest: two units
	if err != nil {
		t.Fatal(err)
	}
	if _, err := take(2 * roomUnit); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("three of two units left: %v", err)
	}
	second, err := take(roomUnit)
	if err != nil {
		t.Fatalf("what did not fit has kept something: %v", err)
	}
	waits := make(chan error)
	go func() {
		p, err := r.Take(t.Context(), 100*roomUnit, nil) // more than there is: all of it
		if err == nil {
			p.Release()
		}
		waits <- err
	}()
	first.Release()
	second.Release()
	if err := <-waits; err != nil {
		t.Error(err)
	}
	for range r.machines { // the number of VMs counts too
		p, err := (&Room{path: r.path, machines: r.machines, units: 100}).Take(t.Context(), 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Release()
	}
	if _, err := take(1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one VM too many: %v", err)
	}
}

// TestRoomPatience: a VM that waits for long starts all the same, and before it ends one that nobody uses.
func TestRoomPatience(t *testing.T) {
	r := &Room{path: filepath.Join(t.TempDir(), "room"), machines: 1, units: 100, patience: time.Millisecond}
	idle, err := r.Take(t.Context(), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := r.Take(t.Context(), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Release()
	r.patience = time.Hour
	asked := 0
	third, err := r.Take(t.Context(), 1, func() bool { asked++; idle.Release(); return true })
	if err != nil || asked != 1 {
		t.Fatalf("asked %d times, %v", asked, err)
	}
	third.Release()
}

func TestMachineRoom(t *testing.T) {
	if r := MachineRoom(); r.machines < vmsPerCPU || r.units < 1 {
		t.Errorf("%+v", r)
	}
}

// BenchmarkTake is what waiting for room costs a VM that need not wait.
func BenchmarkTake(b *testing.B) {
	r := MachineRoom()
	r.path = filepath.Join(b.TempDir(), "room")
	b.ReportAllocs()
	for b.Loop() {
		p, err := r.Take(b.Context(), 512<<20, nil)
		if err != nil {
			b.Fatal(err)
		}
		p.Release()
	}
}

// TestRoomIsTheUsers: the file is in no folder where another user could have put it.
func TestRoomIsTheUsers(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(control.EnvDir, filepath.Join(dir, "run"))
	p, err := MachineRoom().Take(t.Context(), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.Release()
	if _, err := os.Stat(filepath.Join(dir, "run", "tests.lock")); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(filepath.Join(dir, "run"), 0o777); err != nil {
		t.Fatal(err)
	}
	if p, err := MachineRoom().Take(t.Context(), 1, nil); err == nil {
		p.Release()
		t.Error("a folder that anybody can write to was taken")
	}
}
