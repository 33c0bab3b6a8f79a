package vfio

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLabNotViable: a device of STILE_VFIO_BLOCKED has a VFIO driver, another of its group has
// a driver of the host.
func TestLabNotViable(t *testing.T) {
	nodes := labNodes(t, "STILE_VFIO_BLOCKED")
	forEachBackend(t, nodes, func(t *testing.T, b Backend) {
		_, err := labSpace(t, b).Attach(nodes[0])
		t.Log(err)
		if b == IOMMUFD && !errors.Is(err, unix.EPERM) || b == Legacy && !strings.Contains(err.Error(), "not viable") {
			t.Errorf("got %v", err)
		}
	})
}

// TestLabNotIsolated has STILE_VFIO_NOT_ISOLATED on a host without interrupt remapping.
func TestLabNotIsolated(t *testing.T) {
	nodes := labNodes(t, "STILE_VFIO_NOT_ISOLATED")
	forEachBackend(t, nodes, func(t *testing.T, b Backend) {
		_, err := labSpace(t, b).Attach(nodes[0])
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("got %v", err)
		}
		wantError(t, err, "allow_unsafe_interrupts=1")
	})
}

// TestLabReleaseRequest unbinds the device from under the test, which waits until it closes.
func TestLabReleaseRequest(t *testing.T) {
	nodes := labNodes(t, "STILE_VFIO_EDU")
	forEachBackend(t, nodes, func(t *testing.T, b Backend) {
		n, err := Lookup("/sys", nodes[0].Name) // unbinding gave it another file
		check(t, err)
		s := labSpace(t, b)
		d := attach(t, s, n)
		req := labEventFD(t)
		check(t, d.Notify(Req, req.Int()))
		unbound := make(chan error)
		go func() {
			unbound <- os.WriteFile("/sys/bus/pci/drivers/vfio-pci/unbind", []byte(n.Name), 0)
		}()
		await(t, req, "release request")
		select {
		case err := <-unbound:
			t.Errorf("unbinding did not wait: %v", err)
		default:
		}
		check(t, d.Close())
		check(t, <-unbound)
		if _, err := s.Attach(n); err == nil || !strings.Contains(err.Error(), "bind it to vfio-pci") {
			t.Errorf("attach without driver: %v", err)
		}
		check(t, os.WriteFile("/sys/bus/pci/drivers_probe", []byte(n.Name), 0))
		n, err = Lookup("/sys", n.Name)
		check(t, err)
		attach(t, s, n)
	})
}
