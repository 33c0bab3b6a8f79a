package agent

import (
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stile-vmm/stile/internal/agentproto"
)

func TestAwaitCards(t *testing.T) {
	root := t.TempDir()
	for _, path := range []string{"0000:00:0a.0/virtio1/net/eth1", "0000:00:05.0/virtio9/net/eth0", "0000:00:02.0/virtio0/virtio-ports", "0000:01:00.0/net/eth7"} {
		if err := os.MkdirAll(filepath.Join(root, "sys/bus/pci/devices", path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	names, err := awaitCards(root, 2)
	if err != nil || !slices.Equal(names, []string{"eth0", "eth1"}) {
		t.Errorf("%v, %v", names, err)
	}
}

// TestNetlinkMessages compares with the layouts of linux/rtnetlink.h and linux/if_addr.h, for interface 2.
func TestNetlinkMessages(t *testing.T) {
	for name, test := range map[string]struct {
		got  []byte
		want string
	}{
		"link up": {linkUp(2), "00000000" + "02000000" + "01000000" + "01000000"},
		"address": {newAddress(2, netip.MustParsePrefix("10.0.2.15/24")), "02180000" + "02000000" + "08000200" + "0a00020f" + "08000100" + "0a00020f"},
		"IPv6":    {newAddress(2, netip.MustParsePrefix("fd00::f/64")), "0a400200" + "02000000" + "14000200" + "fd00000000000000000000000000000f" + "14000100" + "fd00000000000000000000000000000f"},
		"route":   {defaultRoute(2, netip.MustParseAddr("10.0.2.2")), "02000000" + "fe030001" + "00000000" + "08000500" + "0a000202" + "08000400" + "02000000"},
	} {
		if got := hex.EncodeToString(test.got); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

func TestNetChecked(t *testing.T) {
	for _, n := range []agentproto.Net{{Addresses: []string{"10.0.2.15"}}, {Addresses: []string{"10.0.2.15/24"}, Gateways: []string{"x"}}} {
		if err := (&agentproto.Request{Setup: &agentproto.Setup{Nets: []agentproto.Net{n}}}).Validate(); err == nil {
			t.Errorf("%+v accepted", n)
		}
	}
}
