package passthrough

import (
	"slices"
	"testing"
	"time"

	"github.com/stile-vmm/stile/devices/pci"
	"golang.org/x/sys/unix"
)

// TestUnmaskByHand: a driver that unmasks by no eventfd is asked to each time that the guest has handled the interrupt,
// while that is in use.
func TestUnmaskByHand(t *testing.T) {
	h := withMSIX(endpoint())
	h.fail["SetUnmask"] = unix.ENOTTY
	m := plug(t, h)
	for range 3 {
		check(t, h.resample.Signal())
		m.awaitCall("UnmaskINTx ")
	}
	w := window{f: m.f, region: h.bars[0]}
	w.Read(0, make([]byte, 4))
	w.Write(0, make([]byte, 4))
	m.want("accesses", "UnmaskINTx ", "UnmaskINTx ")
	m.write(pci.RegCommand, 2, pci.CommandMemory)
	m.write(msixCap+2, 2, msixOn)
	h.since()
	w.Read(0, make([]byte, 4))
	m.want("accesses without INTx")
	m.write(msixCap+2, 2, 0)
	h.since()
	check(t, h.resample.Signal())
	m.awaitCall("UnmaskINTx ") // by one goroutine still
	if trace := h.since(); len(trace) > 0 {
		t.Errorf("unmasked again: %q", trace)
	}
	check(t, m.f.Close())
	if len(m.warned) > 0 {
		t.Errorf("warnings %v", m.warned)
	}
}

// awaitCall waits for a call of the device, and forgets those before it.
func (m *machine) awaitCall(call string) {
	m.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if slices.Contains(m.hw.since(), call) {
			return
		}
	}
	m.t.Fatalf("%s was not called", call)
}
