package hostpci_test

import (
	"fmt"
	"testing"

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
// list of files and each of them. Nothing else is asked for.
func TestScanReadsNoMoreThanNeeded(t *testing.T) {
	const n = 40
	h := hostpci.New(large(t, n).Root)
	if _, err := h.Scan(); err != nil {
		t.Fatal(err)
	}
	const lists, tables = 3 + 1, 3 // pci, mdev, groups, units; /proc, DMAR, IVRS
	want := int64(4*n + 4*n/2 + n/8 + 100*11 + 1 + lists + tables)
	if got := h.Reads(); got > want {
		t.Errorf("%d reads, want %d at most", got, want)
	}
}
