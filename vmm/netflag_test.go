package vmm

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestParseNet(t *testing.T) {
	n, err := ParseNet("user,fwd=8022:22,fwd=0.0.0.0:80:8080,fwd=[::1]:81:81,fwd=80:53/udp,cidr=192.168.7.0/24,dns=192.0.2.1,mac=02:00:00:00:00:07")
	if err != nil {
		t.Fatal(err)
	}
	if n.Kind != NetUser || len(n.User.Forwards) != 4 || n.User.Resolver.String() != "192.0.2.1:53" || n.MAC != [6]byte{2, 0, 0, 0, 0, 7} {
		t.Errorf("%+v", n)
	}
	for i, want := range []string{"127.0.0.1:8022 22", "0.0.0.0:80 8080", "[::1]:81 81", "127.0.0.1:80/udp 53"} {
		f := n.User.Forwards[i]
		if got := fmt.Sprint(f.Port(), f.Guest); got != want {
			t.Errorf("forward %d: %s, want %s", i, got, want)
		}
	}
	if n, err := ParseNet("user,ipv6=fd00:7::/64"); err != nil || n.User.CIDR6.String() != "fd00:7::/64" {
		t.Errorf("%+v, %v", n, err)
	}
	if n, err := ParseNet("user,ipv6=off"); err != nil || !n.User.NoIPv6 {
		t.Errorf("%+v, %v", n, err)
	}
	if n, err = ParseNet("tap=tap0,ip=10.9.0.2/24,gw=10.9.0.1"); err != nil || n.Name != "tap0" || n.Address.String() != "10.9.0.2/24" || n.Gateway.String() != "10.9.0.1" {
		t.Errorf("%+v, %v", n, err)
	}
	if _, err := ParseNet("macvtap=m0"); err != nil {
		t.Error(err)
	}
}

func TestParseNetRefuses(t *testing.T) {
	for text, faults := range map[string][]string{
		"":                                  {"must be user"},
		"bridge=br0":                        {"must be user"},
		"stream=/x":                         {"must be user"},
		"user=x":                            {"no name"},
		"tap":                               {"1 to 15 bytes"},
		"tap=" + strings.Repeat("x", 16):    {"1 to 15 bytes"},
		"user,fwd=22,cidr=fd00::/64,mac=1":  {"fwd=22", "fd00::/64", "mac=1"},
		"user,fwd=0:0,fwd=x:1:2,tap=1":      {"fwd=0:0", "fwd=x:1:2", `no "tap"`},
		"user,fwd=1:2,fwd=1:3":              {"twice"},
		"user,dns=x,cidr=10.0.0.0":          {"dns=x: must be IP or IP:PORT", "cidr=10.0.0.0: must be an address with the network's bits"},
		"user,ipv6=no":                      {"ipv6=no: must be an address with the network's bits"},
		"user,ipv6=10.0.0.0/24":             {"must be one of IPv6 with 64 bits"},
		"user,ipv6=fd00::/48":               {"must be one of IPv6 with 64 bits"},
		"user,ipv6=fe80::/64":               {"must be one of IPv6 with 64 bits"},
		"tap=t,ipv6=off":                    {`no "ipv6"`},
		"tap=t,ip=10.9.0.2,gw=x":            {"ip=10.9.0.2: must be", "gw=x: must be an address such as"},
		"user,fwd=0:22,fwd=65536:1":         {"fwd=0:22: must be", "fwd=65536:1: must be"},
		"tap=t,cidr=10.0.0.0/8,gw=10.0.0.1": {`no "cidr"`, "without an address"},
		"tap=t,mac=01:00:00:00:00:00":       {"group"},
		"macvtap=m,mac=02:00:00:00:00:01":   {"interface's address"},
	} {
		_, err := ParseNet(text)
		if err == nil {
			t.Errorf("%q: accepted", text)
			continue
		}
		for _, want := range faults {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, without %q", text, err, want)
			}
		}
	}
}

func TestNetFaults(t *testing.T) {
	tap, err := ParseNet("tap=t")
	if err != nil {
		t.Fatal(err)
	}
	one, err := ParseNet("user,fwd=1:2")
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Kernel: "k", Memory: MinMemory, Nets: []Net{tap, tap, one, one}}
	err = c.Validate()
	if err == nil || !strings.Contains(err.Error(), "tap t is used twice") || !strings.Contains(err.Error(), "127.0.0.1:1 is forwarded twice") {
		t.Errorf("%v", err)
	}
	user := Net{Kind: NetUser}
	if a, b, again := tap.mac(0), user.mac(0), tap.mac(1); a == b || a != again || a[0] != 2 {
		t.Errorf("addresses %x, %x, %x", a, b, again)
	}
}

// TestPlaceNets: each network has addresses of its own, those that it names or the first that are free.
func TestPlaceNets(t *testing.T) {
	var nets []Net
	for _, text := range []string{"user", "tap=t", "user,cidr=10.0.3.0/24", "user", "user,ipv6=off", "user,ipv6=fd73:7469:6c65::/64"} {
		n, err := ParseNet(text)
		if err != nil {
			t.Fatal(err)
		}
		nets = append(nets, n)
	}
	PlaceNets(nets)
	var got []string
	for _, n := range nets {
		got = append(got, fmt.Sprint(n.User.CIDR, " ", n.User.CIDR6))
	}
	const none = "invalid Prefix"
	want := []string{
		"10.0.2.0/24 fd73:7469:6c65:1::/64", none + " " + none, "10.0.3.0/24 fd73:7469:6c65:2::/64",
		"10.0.4.0/24 fd73:7469:6c65:3::/64", "10.0.5.0/24 " + none, "10.0.6.0/24 fd73:7469:6c65::/64",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	c := Config{Kernel: "k", Memory: MinMemory, Nets: nets}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	c.Nets[0].User.CIDR = c.Nets[2].User.CIDR
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "networks 1 and 3 have addresses in common") {
		t.Errorf("%v", err)
	}
}

func FuzzParseNet(f *testing.F) {
	f.Add("user,fwd=8022:22,cidr=10.0.0.0/8")
	f.Add("tap=x,mac=02:00:00:00:00:01,ip=1.2.3.4/5")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseNet(text)
		if err != nil {
			return
		}
		if err := n.validate(); err != nil {
			t.Errorf("%q was read and is not valid: %v", text, err)
		}
	})
}
