package vfio

import (
	"errors"
	"testing"

	"github.com/stile-vmm/stile/internal/feature"
	"golang.org/x/sys/unix"
)

// TestLabMediated has mediated devices of STILE_VFIO_MDEV, whose IOMMU is emulated, alone and
// beside a physical one.
func TestLabMediated(t *testing.T) {
	nodes := labNodes(t, "STILE_VFIO_MDEV")
	physical := labNodes(t, "STILE_VFIO_EDU")[0]
	for _, n := range nodes {
		forEachBackend(t, []Node{n, physical}, func(t *testing.T, b Backend) {
			s := labSpace(t, b)
			mem := memory(t, 8192)
			check(t, s.Map(labIOVA, mem, Read|Write))
			d := attach(t, s, n)
			if l := s.Limits(); !l.Contains(Range{0xfee00000, 0xfeefffff}) {
				t.Errorf("an emulated IOMMU restricts: %+v", l)
			}
			var id [4]byte
			_, err := d.Config().ReadAt(id[:], 0)
			check(t, err)
			t.Logf("%s: id % x, config %#x bytes, reset %v, node %+v", n.Name, id, d.Config().Size(), d.CanReset(), n)
			for i := range 6 {
				t.Logf("BAR %d: %#x bytes, areas %v", i, d.BAR(i).Size(), d.BAR(i).Areas())
			}
			t.Logf("interrupts %+v", d.irqs)
			if _, err := d.HotResetInfo(); !errors.Is(err, feature.ErrNotSupported) {
				t.Errorf("hot reset: %v", err)
			}
			e := labEventFD(t)
			t.Logf("INTx: %v", d.EnableINTx(e.Int()))
			t.Logf("MSI: %v", d.EnableMSI(MSI, []int{e.Int()}))
			if d.CanReset() {
				check(t, d.Reset())
			}
			// The physical device narrows the space and pins what is mapped.
			labEdu(t, s, physical).roundTrip(mem, 9)
			if l := s.Limits(); l.Contains(Range{0xfee00000, 0xfeefffff}) {
				t.Errorf("a physical device does not restrict: %+v", l)
			}
			if err := s.backend.mapDMA(mapping{0xfee00000, mem, Read}); !errors.Is(err, unix.EINVAL) {
				t.Errorf("map in the MSI window: %v", err)
			}
		})
	}
}
