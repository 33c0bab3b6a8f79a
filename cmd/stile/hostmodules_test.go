package main

import (
	"os/exec"
	"testing"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/vmtest"
)

// The scripts run in a nested host: $1 is the folder with the tests' programs, $2 that of the modules, $3 the cache.
const hostMacvtap = `
cd "$2/kernel/drivers/net" && for module in veth macvlan tap macvtap; do
	insmod $module.ko
done
"$1/network" host macvtap "$1/stile" run --net macvtap=macvtap0 -- "$1/network" macvtap
`

const hostVsock = `
cd "$2/kernel" && for module in net/vmw_vsock/vsock net/vmw_vsock/vmw_vsock_virtio_transport_common drivers/vhost/vhost_iotlb drivers/vhost/vhost drivers/vhost/vhost_vsock; do
	insmod $module.ko
done
export STILE_CACHE="$3"
out=$(mktemp -d)
"$1/vsock" echo 80 >"$out/host" &
run() { "$1/stile" run --on host -k debian:6.1 --name "$2" --vsock "$3" -- sh -ec "echo question | $1/vsock dial 80 && exec $1/vsock echo 1234" >"$out/$2"; }
run "$1" seven 7,host & vm=$!
until grep -q listening "$out/seven"; do kill -0 $vm; sleep 0.1; done
grep -q question "$out/seven"
! "$1/stile" run --on host --vsock 7,host -- true 2>"$out/taken"
grep -q 'context ID 7 belongs to another VM of this host; auto takes one that is free' "$out/taken"
head -c 1000000 /dev/urandom >"$out/sent"
"$1/vsock" dial 1234 7 <"$out/sent" >"$out/got"
cmp "$out/sent" "$out/got"
"$1/stile" ctl seven status | grep -q '"cid": 7'
"$1/stile" ctl seven kill
! wait $vm
! "$1/vsock" dial 1234 7 <"$out/sent" 2>"$out/gone"
grep -q connect "$out/gone"
`

// TestHostModules joins guests to what the kernel of a nested host has as modules: its AF_VSOCK, by vhost-vsock, and a macvtap.
func TestHostModules(t *testing.T) {
	for _, tool := range []struct{ name, of string }{{"depmod", "kmod"}, {"ip", "iproute2"}} {
		if _, err := exec.LookPath(tool.name); err != nil {
			testenv.Missing(t, tool.of, err.Error())
		}
	}
	cache, err := images.Open("")
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := distro.Fetch(t.Context(), cache, "6.1", func(what string) { t.Log(what) })
	if err != nil {
		testenv.Missing(t, "apt", err.Error())
	}
	host := vmtest.Lab(t, vmtest.LabConfig{Topology: "singleton", Kernel: "6.1"})
	for _, test := range []struct{ name, script string }{{"macvtap", hostMacvtap}, {"vsock", hostVsock}} {
		t.Run(test.name, func(t *testing.T) {
			out, err := host.Command(t.Context(), "bash", "-ec", test.script, "bash", tools, kernel.Modules, cache.Dir()).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}
