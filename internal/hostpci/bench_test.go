package hostpci_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/hostpci/hosttest"
)

// large is a host with n functions, two to a group, every eighth on vfio-pci, and 100
// processes with 10 open files each.
func large(tb testing.TB, n int) *hosttest.Tree {
	tree := hosttest.New(tb)
	for i := range n {
		driver := "nvme"
		if i%8 == 0 {
			driver = "vfio-pci"
		}
		tree.Add(hosttest.Function{Address: fmt.Sprintf("0000:%02x:%02x.%d", i/16, i/2%8, i%2), Group: 1 + i/2, Driver: driver})
	}
	for i := range 100 {
		var files []string
		for j := range 10 {
			files = append(files, fmt.Sprintf("/home/file%d", j))
		}
		tree.Process(10000+i, 1, "sh", files...)
	}
	return tree
}

func BenchmarkScan200(b *testing.B) {
	tree := large(b, 200)
	h := hostpci.New(tree.Root)
	b.ReportAllocs()
	before := h.Reads()
	for b.Loop() {
		if _, err := h.Scan(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(h.Reads()-before)/float64(b.N), "reads/op")
}

// Per function: its listing, uevent, and the links to driver and group. Per group: its
// members, name, type and reserved regions. Per VFIO device its name; per process its
// list of files and each of them. For the groups that are not viable, what may use their members, once. Nothing else is
// asked for.
func TestScanReadsNoMoreThanNeeded(t *testing.T) {
	const n = 40
	h := hostpci.New(large(t, n).Root)
	if _, err := h.Scan(); err != nil {
		t.Fatal(err)
	}
	const lists, tables = 3 + 1, 3 // pci, mdev, groups, units; /proc, DMAR, IVRS
	const uses = 8                 // virtio, its ports, block, nvme, net, graphics, tty; consoles
	want := int64(4*n + 4*n/2 + n/8 + 100*11 + 1 + lists + tables + uses)
	if got := h.Reads(); got > want {
		t.Errorf("%d reads, want %d at most", got, want)
	}
}

func BenchmarkScanFor(b *testing.B) {
	tree := large(b, 200)
	h := hostpci.New(tree.Root)
	function, err := hostpci.ParseBDF("0000:01:00.0")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	before := h.Reads()
	for b.Loop() {
		if _, err := h.ScanFor(function); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(h.Reads()-before)/float64(b.N), "reads/op")
}

// TestScanFor: it is a part of what Scan finds, and does not grow with the host.
func TestScanFor(t *testing.T) {
	var reads [2]int64
	for i, n := range []int{40, 200} {
		h := hostpci.New(large(t, n).Root)
		whole, err := h.Scan()
		if err != nil {
			t.Fatal(err)
		}
		before := h.Reads()
		part, err := h.ScanFor(whole.Functions[2].Address)
		if err != nil {
			t.Fatal(err)
		}
		reads[i] = h.Reads() - before
		if diff := cmp.Diff(whole.Functions[2:4], part.Functions); diff != "" {
			t.Errorf("functions: %s", diff)
		}
		if diff := cmp.Diff(whole.Groups[1:2], part.Groups); diff != "" || part.IOMMU.On != whole.IOMMU.On {
			t.Errorf("groups: %s, IOMMU %+v", diff, part.IOMMU)
		}
		gone, err := h.ScanFor(whole.Functions[0].Address, hostpci.BDF{Bus: 0xff})
		if err != nil || len(gone.Functions) != n || gone.Function(hostpci.BDF{Bus: 0xff}) != nil {
			t.Errorf("with a function that is not there: %v, %d functions", err, len(gone.Functions))
		}
	}
	if reads[0] != reads[1] || reads[0] > 30 {
		t.Errorf("%d reads on a small host, %d on a large one", reads[0], reads[1])
	}
}
