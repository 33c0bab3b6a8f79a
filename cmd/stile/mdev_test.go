package main

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/mdev"
)

// TestMdevPoint6Told: who wraps a function is told the rule, whom the device's DMA is shared with, and how to go back.
func TestMdevPoint6Told(t *testing.T) {
	function, err := hostpci.ParseBDF("0000:01:00.0")
	if err != nil {
		t.Fatal(err)
	}
	other, err := hostpci.ParseBDF("0000:01:00.1")
	if err != nil {
		t.Fatal(err)
	}
	const uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
	text := captured(t, func() {
		printWrapped(&mdev.Wrapped{UUID: uuid, Function: function, From: "e1000e", Group: &hostpci.Group{
			ID: 7, Kind: hostpci.Isolated,
			Members: []hostpci.Member{
				{Name: function.String(), Function: &function, Status: hostpci.StatusDonates},
				{Name: other.String(), Function: &other, Status: hostpci.StatusHostDriver},
				{Name: uuid, Mediated: true, Status: hostpci.StatusMediated},
			},
			Viability: hostpci.Viability{Reason: "IOMMU group 7 is not viable: 0000:01:00.1 is on the host's driver nvme", Remedy: "stile bind 0000:01:00.1"},
		}})
	})
	first, _, _ := strings.Cut(text, "\n")
	if first != uuid {
		t.Errorf("the first line is %q, for scripts it is the UUID", first)
	}
	for _, want := range []string{
		hostpci.Rule, "IOMMU group 7: not viable", "also in it: 0000:01:00.1 (host-driver)", "→ stile bind 0000:01:00.1",
		"stays with a driver of the host, vfio-mdev-pci", "trusted", "serves nothing else", "answers to its UUID alone",
		"stile run --device " + uuid, "stile mdev unwrap 0000:01:00.0 gives the function back to e1000e",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("not told: %q in\n%s", want, text)
		}
	}
}

// captured returns what fn prints.
func captured(t *testing.T, fn func()) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	stdout := os.Stdout
	os.Stdout = w
	fn()
	os.Stdout = stdout
	w.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
