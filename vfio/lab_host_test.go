package vfio

import (
	"errors"
	"os"
	"path/filepath"
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
		module := map[Backend]string{Legacy: "vfio_iommu_type1", IOMMUFD: "iommufd"}[b]
		check(t, os.WriteFile("/sys/module/"+module+"/parameters/allow_unsafe_interrupts", []byte("1"), 0))
		attach(t, labSpace(t, b), nodes[0])
	})
}

// TestLabToken splits STILE_VFIO_PF, which is bound and has SR-IOV. The kernel binds virtual functions of such a one to its
// driver. With a character device it asks for no token before Linux 6.17.
func TestLabToken(t *testing.T) {
	const token, other = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"
	pf := labNodes(t, "STILE_VFIO_PF")[0]
	check(t, os.WriteFile("/sys/module/vfio_pci/parameters/enable_sriov", []byte("Y"), 0))
	check(t, os.WriteFile("/sys/bus/pci/devices/"+pf.Name+"/sriov_numvfs", []byte("1"), 0))
	link, err := os.Readlink("/sys/bus/pci/devices/" + pf.Name + "/virtfn0")
	check(t, err)
	vf, err := Lookup("/sys", filepath.Base(link))
	check(t, err)
	s := labSpace(t, Legacy)
	try := func(n Node, token string, want error) *Device {
		t.Helper()
		n.Token = token
		d, err := s.Attach(n)
		if !errors.Is(err, want) {
			t.Errorf("%s with token %q: %v, want %v", n.Name, token, err, want)
		}
		return d
	}
	try(vf, "", unix.EACCES)
	try(vf, token, unix.EACCES)
	owner := try(pf, token, nil)
	try(vf, other, unix.EACCES)
	try(vf, token, nil)
	check(t, owner.Close())
	try(pf, other, unix.EACCES)
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
