package vfio

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stile-vmm/stile/internal/uapi/vfio"
	"golang.org/x/sys/unix"
)

func wantFDs(t *testing.T, pci *fakeDevice, kind IRQ, want ...int) {
	t.Helper()
	if pci.active != int(kind) {
		t.Errorf("%v is on, want %v", IRQ(pci.active), kind)
	}
	if diff := cmp.Diff(want, pci.fds[uint32(kind)]); diff != "" {
		t.Errorf("%v: %s", kind, diff)
	}
}

func TestMSIXGrowsOneByOne(t *testing.T) {
	d, pci, _ := fakeDeviceIn(t, IOMMUFD, nil)
	check(t, d.EnableMSI(MSIX, nil))
	wantFDs(t, pci, MSIX, -1)
	before := d.Stats().IOCTLs["VFIO_DEVICE_SET_IRQS"]
	check(t, d.SetVector(3, 33))
	wantFDs(t, pci, MSIX, -1, -1, -1, 33)
	check(t, d.SetVector(1, 31))
	check(t, d.SetVector(3, -1))
	check(t, d.SetVector(3, -1)) // no call
	wantFDs(t, pci, MSIX, -1, 31, -1, -1)
	if n := d.Stats().IOCTLs["VFIO_DEVICE_SET_IRQS"] - before; n != 3 {
		t.Errorf("%d calls for three changes", n)
	}
	if d.Vectors() != 4 {
		t.Errorf("%d vectors", d.Vectors())
	}
	for _, v := range []int{-1, 8} {
		if err := d.SetVector(v, 1); err == nil {
			t.Errorf("vector %d was set", v)
		}
	}
}

// TestMSIGrowsByEnablingAll: a kind that cannot be resized is switched off and on.
func TestMSIGrowsByEnablingAll(t *testing.T) {
	d, pci, k := fakeDeviceIn(t, Legacy, nil)
	check(t, d.EnableMSI(MSI, []int{10}))
	check(t, d.SetVector(0, 20))
	wantFDs(t, pci, MSI, 20)
	check(t, d.SetVector(2, 22))
	wantFDs(t, pci, MSI, 20, -1, 22)
	k.answers["VFIO_DEVICE_SET_IRQS"] = 3
	defer delete(k.answers, "VFIO_DEVICE_SET_IRQS")
	var few *VectorsError
	if err := d.SetVector(3, 23); !errors.As(err, &few) || few.Available != 3 || few.Want != 4 {
		t.Errorf("got %v", err)
	}
}

func TestKindsExcludeEachOther(t *testing.T) {
	d, pci, _ := fakeDeviceIn(t, Legacy, nil)
	check(t, d.EnableINTx(5))
	wantFDs(t, pci, INTx, 5)
	if !pci.masked {
		t.Error("INTx was not left masked")
	}
	check(t, d.SetUnmask(6))
	check(t, d.UnmaskINTx())
	if pci.masked || pci.unmask != 6 {
		t.Errorf("masked %v, unmasking eventfd %d", pci.masked, pci.unmask)
	}
	check(t, d.MaskINTx())
	if !pci.masked || d.Vectors() != 0 {
		t.Error("INTx was not masked, or counts as vector")
	}
	if err := d.SetVector(0, 1); err == nil {
		t.Error("INTx has no vectors")
	}
	check(t, d.EnableMSI(MSIX, []int{1, 2}))
	wantFDs(t, pci, MSIX, 1, 2)
	if err := d.UnmaskINTx(); err == nil {
		t.Error("INTx is off")
	}
	check(t, d.EnableMSI(MSI, []int{3}))
	wantFDs(t, pci, MSI, 3)
	check(t, d.EnableINTx(7))
	wantFDs(t, pci, INTx, 7)
	check(t, d.DisableIRQs())
	check(t, d.DisableIRQs())
	if pci.active != -1 {
		t.Errorf("%v is on", IRQ(pci.active))
	}
}

func TestIRQsAreRefused(t *testing.T) {
	d, _, k := fakeDeviceIn(t, Legacy, func(p *fakeDevice) {
		p.irqs[vfio.INTxIRQ] = vfio.IRQInfo{}
		delete(p.irqs, vfio.ErrIRQ) // EINVAL, as without PCIe
	})
	wantError(t, d.EnableINTx(5), "has none")
	wantError(t, d.EnableMSI(INTx, []int{5}), "message-signalled")
	wantError(t, d.EnableMSI(MSI, make([]int, 5)), "which has 4")
	wantError(t, d.SetVector(0, 5), "are off")
	wantError(t, d.Notify(Err, 5), "no error notification")
	wantError(t, d.Notify(MSI, 5), "no notification")
	k.fail["VFIO_DEVICE_SET_IRQS"] = unix.ENOSPC
	wantError(t, d.EnableMSI(MSIX, []int{1}), "no interrupt vectors left")
	delete(k.fail, "VFIO_DEVICE_SET_IRQS")
	check(t, d.EnableMSI(MSIX, []int{1}))
	check(t, d.Close())
	wantError(t, d.EnableMSI(MSIX, []int{1}), "closed")
	wantError(t, d.SetVector(0, 1), "closed")
	wantError(t, d.UnmaskINTx(), "closed")
	wantError(t, d.Notify(Req, 1), "closed")
	wantError(t, d.DisableIRQs(), "closed")
}

func TestCloseSwitchesEverythingOff(t *testing.T) {
	d, pci, k := fakeDeviceIn(t, Legacy, nil)
	check(t, d.Notify(Err, 8))
	check(t, d.Notify(Req, 9))
	check(t, d.EnableINTx(5))
	n := len(k.trace)
	check(t, d.Close())
	if pci.active != -1 || !slices.Equal(pci.fds[vfio.ErrIRQ], []int{-1}) || !slices.Equal(pci.fds[vfio.ReqIRQ], []int{-1}) {
		t.Errorf("left on: %d, %v", pci.active, pci.fds)
	}
	if got := slices.Index(k.trace[n:], "VFIO_DEVICE_SET_IRQS"); got != 0 {
		t.Errorf("interrupts are not the first to go: %q", k.trace[n:])
	}
}

// BenchmarkSetVector is what masking and unmasking of a vector costs beside the kernel.
func BenchmarkSetVector(b *testing.B) {
	d := &Device{file: nopFile{}, counter: newCounter()}
	d.irqs[MSIX] = IRQInfo{Count: 8}
	d.vectors = vectors{true, MSIX, []int{1, 2}}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := d.SetVector(1, 2+i&1); err != nil {
			b.Fatal(err)
		}
	}
}

type nopFile struct{ file }

func (nopFile) controlBytes(call, []byte) (int, error) { return 0, nil }
func (nopFile) pread(p []byte, off int64) (int, error) { return len(p), nil }

// BenchmarkRegionRead is what a trapped access costs beside the kernel.
func BenchmarkRegionRead(b *testing.B) {
	r := &Region{device: &Device{file: nopFile{}}, size: 4096}
	buf := make([]byte, 4)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.ReadAt(buf, 16); err != nil {
			b.Fatal(err)
		}
	}
}
