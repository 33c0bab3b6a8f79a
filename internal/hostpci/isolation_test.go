package hostpci_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/hostpci/hosttest"
)

// Port types of PCI Express functions.
const (
	endpoint = 0x0
	rootPort = 0x4
	toPCI    = 0x7
)

func TestExplain(t *testing.T) {
	const together = "So all of the group goes to one guest, or none of it."
	const port, first, second, third = "0000:00:1c.0", "0000:01:00.0", "0000:01:00.1", "0000:01:00.2"
	conventional := make([]byte, 256)
	tests := []struct {
		name  string
		build func(*hosttest.Tree)
		want  []string
		acs   map[string]hostpci.ACS
	}{
		{
			name: "alone",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: first, Group: 1, Config: hostpci.Space(endpoint, -1)})
			},
			want: []string{"0000:01:00.0 is alone in its group: whatever it sends to other devices or to memory passes the IOMMU."},
			acs:  map[string]hostpci.ACS{},
		},
		{
			name: "functions without ACS",
			build: func(h *hosttest.Tree) {
				for _, b := range []string{first, second, third} {
					h.Add(hosttest.Function{Address: b, Group: 1, Config: hostpci.Space(endpoint, -1)})
				}
			},
			want: []string{"0000:01:00.0, 0000:01:00.1 and 0000:01:00.2 are functions of one device that may talk to each other without the IOMMU seeing it: they have no ACS (access control).", together},
			acs:  map[string]hostpci.ACS{first: "absent", second: "absent", third: "absent"},
		},
		{
			name: "functions with ACS not on",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: first, Group: 1, Config: hostpci.Space(endpoint, 0x1d)},
					hosttest.Function{Address: second, Group: 1, Config: hostpci.Space(endpoint, 0)})
			},
			want: []string{"0000:01:00.0 and 0000:01:00.1 are functions of one device that may talk to each other without the IOMMU seeing it: their ACS (access control) is not all switched on.", together},
			acs:  map[string]hostpci.ACS{first: "on", second: "off"},
		},
		{
			name: "functions whose ACS nobody can read",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: first, Group: 1, Config: hostpci.Space(endpoint, 0x1d)[:64]},
					hosttest.Function{Address: second, Group: 1})
			},
			want: []string{"0000:01:00.0 and 0000:01:00.1 are functions of one device that may talk to each other without the IOMMU seeing it: their ACS (access control) can't be read (that takes root, and a device that is awake).", together},
			acs:  map[string]hostpci.ACS{first: "unknown", second: "unknown"},
		},
		{
			name: "behind a port without ACS",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: port, Bridge: true, Group: 1, Config: hostpci.Space(rootPort, -1)},
					hosttest.Function{Address: first, Parent: port, Group: 1, Config: hostpci.Space(endpoint, -1)})
			},
			want: []string{"0000:01:00.0 is behind bridge 0000:00:1c.0, which may pass what it sends on to others without the IOMMU seeing it: it has no ACS (access control).", together},
			acs:  map[string]hostpci.ACS{port: "absent"},
		},
		{
			name: "behind a port whose path has a gap",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: port, Bridge: true, Group: 1, Config: hostpci.Space(rootPort, 0x1d)},
					hosttest.Function{Address: first, Parent: port, Group: 1, Config: hostpci.Space(endpoint, -1)})
			},
			want: []string{"0000:01:00.0 is behind bridge 0000:00:1c.0, which may pass what it sends on to others without the IOMMU seeing it: its own ACS is on, so the gap is between it and the root.", together},
			acs:  map[string]hostpci.ACS{port: "on"},
		},
		{
			name: "a conventional bus of four",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: "0000:04:00.0", Bridge: true, Group: 1, Config: hostpci.Space(toPCI, -1)})
				for _, b := range []string{"0000:05:01.0", "0000:05:02.0", "0000:05:02.1", "0000:05:03.0"} {
					h.Add(hosttest.Function{Address: b, Parent: "0000:04:00.0", Group: 1, Config: conventional})
				}
			},
			want: []string{"0000:05:01.0, 0000:05:02.0, 0000:05:02.1 and 0000:05:03.0 are on the conventional PCI bus behind 0000:04:00.0, where the IOMMU can't tell one from another.", together},
			acs:  map[string]hostpci.ACS{},
		},
		{
			name: "no reason to be seen",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: first, Group: 1}, hosttest.Function{Address: "0000:09:00.0", Group: 1})
			},
			want: []string{"The kernel put these devices in one group, and their configuration spaces do not show why: an IOMMU or platform that can't tell them apart, or a device that is known to use another's address.", together},
			acs:  map[string]hostpci.ACS{},
		},
		{
			name: "wrapped",
			build: func(h *hosttest.Tree) {
				h.Add(hosttest.Function{Address: first, Group: 1, Driver: "vfio-mdev-pci"})
				h.Mediated(uuid, first, "vfio-mdev-pci", 1)
			},
			want: []string{
				"0000:01:00.0 is alone in its group: whatever it sends to other devices or to memory passes the IOMMU.",
				uuid + " is a mediated device in its parent's group: it stands for the parent, whose driver donates the group.",
			},
			acs: map[string]hostpci.ACS{},
		},
		{
			name: "emulated",
			build: func(h *hosttest.Tree) {
				h.Group(1, "vfio-noiommu", "unknown")
				h.Mediated(uuid, "mtty", "vfio_mtty", 1)
			},
			want: []string{"The group holds a mediated device only: its parent's driver checks each access to memory, and no IOMMU does."},
			acs:  map[string]hostpci.ACS{},
		},
		{
			name: "no-IOMMU mode",
			build: func(h *hosttest.Tree) {
				h.Group(1, "vfio-noiommu", "unknown")
				h.Add(hosttest.Function{Address: first, Group: 1, Driver: "vfio-pci"})
			},
			want: []string{"This is VFIO's no-IOMMU mode: nothing keeps the device from any of the host's memory."},
			acs:  map[string]hostpci.ACS{},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tree := hosttest.New(t)
			tt.build(tree)
			s := scan(t, tree)
			got := hostpci.New(tree.Root).Explain(s, s.Group(1))
			if !slices.Equal(got.Text, tt.want) {
				t.Errorf("got  %q\nwant %q", got.Text, tt.want)
			}
			if diff := cmp.Diff(tt.acs, got.ACS); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDetail(t *testing.T) {
	tree := hosttest.New(t)
	const port, f = "0000:00:1c.0", "0000:01:00.0"
	tree.Add(hosttest.Function{Address: port, Bridge: true},
		hosttest.Function{Address: f, Parent: port, Config: hostpci.Space(endpoint, -1), Files: map[string]string{
			"revision": "0x02\n", "numa_node": "1\n", "reset_method": "flr bus\n",
			"resource": "0x00000000fe000000 0x00000000fe0fffff 0x0000000000040200\n",
		}})
	h := hostpci.New(tree.Root)
	s := scan(t, tree)
	up := bdf(t, port)
	want := &hostpci.Detail{
		Path: "/sys/devices/pci0000:00/0000:00:1c.0/0000:01:00.0", Revision: 2, NUMANode: 1,
		BARs: []hostpci.BAR{{Index: 0, Address: 0xfe000000, Size: 1 << 20}}, Resettable: true, ResetMethods: []string{"flr", "bus"},
		Upstream: &up, Uses: []hostpci.Use{},
	}
	if diff := cmp.Diff(want, h.Detail(s, s.Function(bdf(t, f)))); diff != "" {
		t.Error(diff)
	}
	// Garbage is named, and the rest is there.
	tree.Write(tree.Folder(f)+"/revision", "lots")
	tree.Write(tree.Folder(f)+"/numa_node", "")
	tree.Write(tree.Folder(f)+"/resource", "\x00\x01")
	tree.Write(tree.Folder(f)+"/config", string(slices.Repeat([]byte{0xff}, 4096)))
	d := h.Detail(s, s.Function(bdf(t, f)))
	if len(d.Problems) != 4 || d.HeaderType != -1 || len(d.ResetMethods) != 2 {
		t.Errorf("%+v", d)
	}
}
