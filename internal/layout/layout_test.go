package layout

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRAMWithin(t *testing.T) {
	all := []Range{{0, maxAddress}}
	vtd := []Range{{0, 0xfee00000}, {0xfef00000, 1<<39 - 0xfef00000}}
	for _, test := range []struct {
		name   string
		size   uint64
		usable []Range
		want   []Range
		rest   uint64
	}{
		{"all", 6 * GiB, all, RAM(6 * GiB), 0},
		{"small", 512 * MiB, vtd, RAM(512 * MiB), 0},
		{"39 bits", 6 * GiB, vtd, RAM(6 * GiB), 0},
		{"too much for 39 bits", 600 * GiB, vtd, []Range{{0, LowRAMEnd}, {HighRAMBase, 508 * GiB}}, 600*GiB - 508*GiB - LowRAMEnd},
		{"firmware's region", 512 * MiB, []Range{{0, 0x7ff000}, {0x900000, 4 * GiB}}, []Range{{0, 6 * MiB}, {0xa00000, 506 * MiB}}, 0},
		{"in high RAM", 4 * GiB, []Range{{0, 5 * GiB}, {6 * GiB, GiB}}, []Range{{0, LowRAMEnd}, {HighRAMBase, GiB}}, 0},
		{"nothing", 4 * MiB, nil, nil, 4 * MiB},
		{"slivers", 4 * MiB, []Range{{0x1000, 2 * MiB}}, nil, 4 * MiB},
	} {
		got, rest := RAMWithin(test.size, test.usable)
		if diff := cmp.Diff(test.want, got); diff != "" || rest != test.rest {
			t.Errorf("%s: %s, %d bytes without a place, want %d", test.name, diff, rest, test.rest)
		}
	}
}

func TestMMIO64IsAligned(t *testing.T) {
	for largest, want := range map[uint64]uint64{0: 5 * GiB, 256 * MiB: 5 * GiB, 16 * GiB: 16 * GiB} {
		if got := MMIO64Behind(RAM(4*GiB), largest); got != want {
			t.Errorf("for BARs of %#x bytes the window begins at %#x, want %#x", largest, got, want)
		}
	}
}
