package guestmem_test

import (
	"testing"

	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/layout"
)

func TestDiscard(t *testing.T) {
	mem, err := guestmem.New([]layout.Range{{Start: 0, Size: 4 << 20}, {Start: 8 << 20, Size: 4 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	for _, test := range []struct {
		name         string
		gpa, n, want uint64
	}{
		{"one page", 0x1000, 0x1000, 0x1000},
		{"to the end", 4<<20 - 0x1000, 0x1000, 0x1000},
		{"over the end", 4<<20 - 0x1000, 0x3000, 0x1000},
		{"over the hole", 4<<20 - 0x1000, 4<<20 + 0x3000, 0x3000},
		{"in the hole", 5 << 20, 0x1000, 0},
		{"behind", 1 << 40, 0x1000, 0},
		{"wraps", ^uint64(0) - 0xfff, 0x2000, 0},
		{"half pages", 0x1800, 0x1000, 0},
		{"a page within", 0x1800, 0x2000, 0x1000},
		{"nothing", 0x1000, 0, 0},
	} {
		for _, r := range mem.Regions() {
			for i := range r.Bytes {
				r.Bytes[i] = 0xaa
			}
		}
		if got := mem.DiscardPages(test.gpa, test.n); got != test.want {
			t.Errorf("%s: %#x bytes, want %#x", test.name, got, test.want)
		}
		var zeros uint64
		for _, r := range mem.Regions() {
			for i, v := range r.Bytes {
				if gpa := r.Start + uint64(i); v == 0 {
					if zeros++; gpa < test.gpa || gpa-test.gpa >= test.n {
						t.Fatalf("%s: %#x was discarded", test.name, gpa)
					}
				}
			}
		}
		if zeros != test.want {
			t.Errorf("%s: %#x bytes are gone, want %#x", test.name, zeros, test.want)
		}
	}
}
