package vmm_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stile-vmm/stile/vmm"
)

// stopWatcher is a guest that has the clock of its only vCPU at 2 MiB, prints a letter, and exits with 42 once that clock says
// that it was stopped.
var stopWatcher = []byte{
	0xb9, 0x01, 0x4d, 0x56, 0x4b, // mov $0x4b564d01,%ecx
	0xb8, 0x01, 0x00, 0x20, 0x00, // mov $0x200001,%eax
	0x31, 0xd2, // xor %edx,%edx
	0x0f, 0x30, // wrmsr
	0x66, 0xba, 0xf8, 0x03, // mov $0x3f8,%dx
	0xb0, 0x78, // mov $'x',%al
	0xee,                                           // out %al,(%dx)
	0xf6, 0x04, 0x25, 0x1d, 0x00, 0x20, 0x00, 0x02, // again: testb $2,0x20001d
	0x74, 0xf6, // je again
	0xb0, 42, // mov $42,%al
	0xe6, 0xf4, // out %al,$0xf4
}

// signalWriter tells once that something was written.
type signalWriter struct {
	once    sync.Once
	written chan struct{}
}

func (w *signalWriter) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.written) })
	return len(p), nil
}

// TestStops: a guest learns that it did not run, from a gap in time and from being held.
func TestStops(t *testing.T) {
	for name, stop := range map[string]func(vm *vmm.VM, skip func(time.Duration)){
		"a gap": func(_ *vmm.VM, skip func(time.Duration)) { skip(40 * time.Second) },
		"held":  func(vm *vmm.VM, _ func(time.Duration)) { vm.Hold()() },
		"held more": func(vm *vmm.VM, _ func(time.Duration)) {
			first, again := vm.Hold(), vm.Hold()
			first()
			first()
			again()
		},
	} {
		t.Run(name, func(t *testing.T) {
			out := &signalWriter{written: make(chan struct{})}
			vm := newMicro(t, vmm.Config{Console: out}, stopWatcher)
			skip := vmm.SkipTime(vm)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			go func() {
				<-out.written
				stop(vm, skip)
			}()
			result, err := vm.Run(ctx)
			if err != nil || result.Reason != vmm.DebugExit || result.Code != 42 {
				t.Errorf("ended by %+v, %v; want a guest that knows of its stop", result, err)
			}
			if vm.Stats().Stops == 0 {
				t.Error("no stop is counted")
			}
		})
	}
}

// TestNoStop: a guest that runs is not told that it was stopped.
func TestNoStop(t *testing.T) {
	result, vm := runMicro(t, vmm.Config{}, stopWatcher, time.Second)
	if result.Reason != vmm.Canceled || vm.Stats().Stops != 0 {
		t.Errorf("ended by %+v after %d stops, want neither", result, vm.Stats().Stops)
	}
}

// TestHeld: held vCPUs do nothing, also not when the VM ends meanwhile.
func TestHeld(t *testing.T) {
	out := &signalWriter{written: make(chan struct{})}
	vm := newMicro(t, vmm.Config{Console: out, CPUs: 2}, stopWatcher)
	release := vm.Hold()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	result, err := vm.Run(ctx)
	if err != nil || result.Reason != vmm.Canceled {
		t.Errorf("ended by %+v, %v", result, err)
	}
	select {
	case <-out.written:
		t.Error("a held guest wrote to its console")
	default:
	}
	release()
	vm.Hold()() // of a VM that has ended
}

// TestExcusedLockup: a kernel that takes a stop for a lockup goes on. What it says later counts.
func TestExcusedLockup(t *testing.T) {
	const lockup = "[    1.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 41s!\n"
	for name, test := range map[string]struct {
		since  time.Duration // between the stop and the report
		reason vmm.Reason
	}{
		"just stopped": {0, vmm.DebugExit},
		"long ago":     {time.Minute, vmm.Lockup},
	} {
		t.Run(name, func(t *testing.T) {
			var notices bytes.Buffer
			var mu sync.Mutex
			notice := func(text string) {
				mu.Lock()
				defer mu.Unlock()
				notices.WriteString(text)
			}
			vm := newMicro(t, vmm.Config{Notice: notice}, append(printed(lockup), debugExit...))
			skip := vmm.SkipTime(vm)
			vm.Hold()()
			skip(test.since)
			result, err := vm.Run(t.Context())
			if err != nil || result.Reason != test.reason {
				t.Errorf("ended by %+v, %v; want %s", result, err, test.reason)
			}
			if err := vm.Close(); err != nil {
				t.Error(err)
			}
			if told := strings.Contains(notices.String(), "was stopped for a while"); told != (test.reason == vmm.DebugExit) {
				t.Errorf("notices %q", &notices)
			}
		})
	}
}
