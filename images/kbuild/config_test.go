package kbuild

import (
	"strings"
	"testing"
)

func TestCheckConfig(t *testing.T) {
	const fragment = "# why\n\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=\"x\"\nCONFIG_C=\"y\"\nCONFIG_D=m\n"
	for _, tt := range []struct{ made, lost string }{
		{"CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"y\"\nCONFIG_D=m\nCONFIG_E=y\n", ""},
		{"CONFIG_A=y\nCONFIG_C=\"y\"\nCONFIG_D=m\n", ""}, // B is not even known
		{"CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=\"x\"\nCONFIG_D=y\n", "CONFIG_B=n, CONFIG_C=\"y\", CONFIG_D=m"},
		{"# CONFIG_A is not set\nCONFIG_C=\"y\"\n", "CONFIG_A=y, CONFIG_D=m"},
	} {
		err := checkConfig(fragment, tt.made)
		if (err == nil) != (tt.lost == "") || err != nil && !strings.HasPrefix(err.Error(), "this kernel has no "+tt.lost+": ") {
			t.Errorf("%q: %v", tt.made, err)
		}
	}
	if err := checkConfig("CONFIG_A\n", ""); err == nil {
		t.Error("a line without a value was taken")
	}
}

// TestOptional: an older kernel need not know an optional line; a newer one that has it off is refused, and so is one that
// lacks another line.
func TestOptional(t *testing.T) {
	const fragment = "CONFIG_A=y\n# Optional: since 6.17.\nCONFIG_NEW=y\nCONFIG_B=m\n"
	for made, lost := range map[string]string{
		"CONFIG_A=y\nCONFIG_B=m\n":                          "",
		"CONFIG_A=y\nCONFIG_NEW=y\nCONFIG_B=m\n":            "",
		"CONFIG_A=y\n# CONFIG_NEW is not set\nCONFIG_B=m\n": "CONFIG_NEW=y",
		"CONFIG_A=y\nCONFIG_NEW=y\n":                        "CONFIG_B=m",
		"CONFIG_B=m\nCONFIG_NEW=y\n":                        "CONFIG_A=y",
	} {
		err := checkConfig(fragment, made)
		if (err == nil) != (lost == "") || err != nil && !strings.Contains(err.Error(), "has no "+lost+":") {
			t.Errorf("%q: %v", made, err)
		}
	}
	for _, config := range []Config{Lab, LabDebug} {
		text := Options{Config: config}.fragment()
		got, err := parseConfig(text)
		if err != nil || got["CONFIG_KVM_IOAPIC"] != "y" || !optional(text)["CONFIG_KVM_IOAPIC"] || len(optional(text)) != 1 {
			t.Errorf("%q: KVM's interrupt controllers are %q, optional lines %v, %v", config, got["CONFIG_KVM_IOAPIC"], optional(text), err)
		}
	}
}

// TestFragments holds stile's own fragments to what the lab counts on.
func TestFragments(t *testing.T) {
	for _, config := range []Config{Lab, LabDebug} {
		debug := config == LabDebug
		got, err := parseConfig(Options{Config: config, Fragment: "CONFIG_NR_CPUS=2\n"}.fragment())
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"CONFIG_KVM_AMD": "m", "CONFIG_VFIO_DEVICE_CDEV": "y", "CONFIG_IOMMUFD": "y", "CONFIG_PCI_MMCONFIG": "y",
			"CONFIG_HZ_100": "y", "CONFIG_VFIO_MDEV": "m", "CONFIG_NR_CPUS": "2",
		} {
			if got[name] != want {
				t.Errorf("debug %v: %s=%s", debug, name, got[name])
			}
		}
		if _, ok := got["CONFIG_PROVE_LOCKING"]; ok != debug {
			t.Errorf("debug %v: PROVE_LOCKING %v", debug, ok)
		}
	}
}

func TestGuestFragmentHasNoModules(t *testing.T) {
	got, err := parseConfig(Options{Config: Guest}.fragment())
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range got {
		if value == "m" {
			t.Errorf("%s is a module", name)
		}
	}
	if got["CONFIG_NET_9P_VIRTIO"] != "y" || got["CONFIG_VIRTIO_CONSOLE"] != "y" {
		t.Error("the agent can't work")
	}
}

func TestTail(t *testing.T) {
	long := strings.Repeat("x\n", 100)
	for _, tt := range []struct{ log, want string }{
		{"", ""},
		{"a\nb\n", "a\nb"},
		{"a: error: b\nc\n", "a: error: b\nc"},
		{"a: error: b\n" + long, "a: error: b\n…\n" + strings.TrimSpace(strings.Repeat("x\n", tailLines))},
	} {
		if got := tail(strings.NewReader(tt.log)); got != tt.want {
			t.Errorf("tail of %.30q: %q", tt.log, got)
		}
	}
}
