package vfio

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestToken: the user of a physical function chooses the token, which those of its virtual functions show.
func TestToken(t *testing.T) {
	const token, other = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"
	pf, vf, plain := fakePCI("0000:07:00.0", 7), fakePCI("0000:07:00.1", 8), fakePCI("0000:01:00.0", 1)
	pf.sriov, pf.token, vf.pf = true, "chosen by the kernel", pf
	k := newFakeKernel(t, pf, vf, plain)
	s, err := open(k, Legacy, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	try := func(d *fakeDevice, token string, want unix.Errno) *Device {
		t.Helper()
		n := d.node
		n.Token = token
		opened, err := s.Attach(n)
		if want == 0 && err != nil || want != 0 && !errors.Is(err, want) {
			t.Errorf("%s with token %q: %v, want %v", n.Name, token, err, want)
		}
		return opened
	}
	try(plain, token, unix.EINVAL)
	try(vf, "", unix.EACCES)
	try(vf, token, unix.EACCES)
	first := try(pf, token, 0)
	try(vf, other, unix.EACCES)
	try(vf, token, 0)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	try(pf, "", unix.EACCES)
	try(pf, other, unix.EACCES)
	try(pf, token, 0)
}

// TestBusyDevice: a device whose lock someone holds for a moment is opened all the same.
func TestBusyDevice(t *testing.T) {
	for _, b := range backends {
		d := fakePCI("0000:01:00.0", 1)
		d.busy = 2
		s, err := open(newFakeKernel(t, d), b, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Attach(d.node); err != nil || d.busy != 0 {
			t.Errorf("%s: %v, busy %d", b, err, d.busy)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
