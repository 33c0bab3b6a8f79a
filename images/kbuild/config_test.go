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
