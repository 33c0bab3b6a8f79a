package vmm

import (
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/layout"
)

func TestPlaceBARs(t *testing.T) {
	ram := layout.RAM(128 << 20)
	devices := []DeviceBARs{
		{"a", []BAR{{Index: 0, Size: 4096}, {Index: 2, Size: 8 << 30, Wide: true}, {Index: 4, Size: 32, IO: true}, {Index: ROMIndex, Size: 64 << 10}}},
		{"b", []BAR{{Index: 0, Size: 1 << 20}, {Index: 1, Size: 3000}}},
	}
	if err := PlaceBARs(ram, devices); err != nil {
		t.Fatal(err)
	}
	want := [][]uint64{
		{layout.MMIO32 + 0x110000, 8 << 30, layout.PIOWindow, layout.MMIO32 + 0x100000},
		{layout.MMIO32, layout.MMIO32 + 0x111000},
	}
	for i, d := range devices {
		for j, b := range d.BARs {
			if b.Address != want[i][j] {
				t.Errorf("device %s, BAR %d is at %#x, want %#x", d.Name, b.Index, b.Address, want[i][j])
			}
		}
	}
	err := PlaceBARs(ram, []DeviceBARs{{"c", []BAR{{Index: 0, Size: 1 << 30}}}})
	if err == nil || !strings.Contains(err.Error(), "no room for c BAR 0") {
		t.Errorf("a BAR larger than its window: %v", err)
	}
}
