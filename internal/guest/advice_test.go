package guest

import (
	"testing"

	"github.com/stile-vmm/stile/internal/hostpci"
)

// TestAdvice: what a stile in the lab advises works where the user types it.
func TestAdvice(t *testing.T) {
	const flags = "--topology all"
	for _, tt := range []struct{ text, want string }{
		{"stile bind 0000:01:00.0", "stile lab run --topology all -- sh -c 'stile bind 0000:01:00.0 && COMMAND'"},
		{"end what uses 0000:01:00.0, then stile bind 0000:01:00.0 01:00.1; echo x > y",
			"end what uses 0000:01:00.0, then stile lab run --topology all -- sh -c 'stile bind 0000:01:00.0 01:00.1 && COMMAND'; echo x > y"},
		{"stile mdev remove 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001, then",
			"stile lab run --topology all -- sh -c 'stile mdev remove 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 && COMMAND', then"},
		{"stile unbind --stale", "stile lab run --topology all -- sh -c 'stile unbind --stale && COMMAND'"},
		{"see stile devices", "see stile lab devices --topology all"},
		{"see stile mdev list", "see stile lab run --topology all -- stile mdev list"},
		{"write --device 0000:01:00.0,bind; see stile run --help", "write --device 0000:01:00.0,bind; see stile run --help"},
	} {
		if got := Advice(tt.text); got != tt.text {
			t.Errorf("typed here, %q became %q", tt.text, got)
		}
		t.Run(tt.text, func(t *testing.T) {
			t.Setenv(envTyped, flags)
			if got := Advice(tt.text); got != tt.want {
				t.Errorf("%q became\n%q, want\n%q", tt.text, got, tt.want)
			}
		})
	}
	l := LabSpec{Kernel: "6.12", Modules: "/home/me/my modules$1"}
	t.Setenv(envTyped, l.typed())
	want := `stile lab run --topology plain --kernel 6.12 --modules '/home/me/my modules$1' -- sh -c 'stile bind 01:00.0 && COMMAND'`
	if got := Advice("stile bind 01:00.0"); got != want {
		t.Errorf("%s, want\n%s", got, want)
	}
}

func TestAdviseDevices(t *testing.T) {
	t.Setenv(envTyped, "--topology no-iommu")
	t.Setenv(EnvNested, "1")
	s := &hostpci.Snapshot{
		IOMMU:  hostpci.IOMMU{Reason: "the firmware reports no IOMMU", Remedy: hostpci.IOMMURemedies()[0]},
		Groups: []*hostpci.Group{{Viability: hostpci.Viability{Remedy: "stile bind 0000:01:00.0"}}},
	}
	AdviseDevices(s)
	if s.IOMMU.Remedy != topologyRemedy ||
		s.Groups[0].Viability.Remedy != "stile lab run --topology no-iommu -- sh -c 'stile bind 0000:01:00.0 && COMMAND'" {
		t.Errorf("%q, %q", s.IOMMU.Remedy, s.Groups[0].Viability.Remedy)
	}
}

// TestAdviceWithoutIOMMU: a nested host has no firmware setup and no kernel command line that the user could change, whatever command
// says so.
func TestAdviceWithoutIOMMU(t *testing.T) {
	for _, remedy := range hostpci.IOMMURemedies() {
		text := "0000:01:00.0 has no IOMMU group: the firmware reports no IOMMU; " + remedy
		if got := Advice(text); got != text {
			t.Errorf("on a host, %q became %q", text, got)
		}
		t.Run(remedy, func(t *testing.T) {
			t.Setenv(EnvNested, "1")
			want := "0000:01:00.0 has no IOMMU group: the firmware reports no IOMMU; " + topologyRemedy
			if got := Advice(text); got != want {
				t.Errorf("%q became\n%q, want\n%q", text, got, want)
			}
		})
	}
}
