package main

import (
	"os/exec"
	"testing"

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

// hostAER has the kernel find an error of an e1000e: struct aer_error_inj of its drivers/pci/pcie/aer_inject.c is bus, device, function and
// a byte of nothing, the bits of an uncorrectable error (here a completer abort, which is not fatal) and of a correctable one, and the header log.
const hostAER = `
insmod "$2/kernel/drivers/pci/pcie/aer_inject.ko" aer_mask_override=1
out=$(mktemp -d)
told='0000:02:00.0 reported an error that the hardware could not correct'
for what in warn stop; do
	"$1/stile" run --on-device-error $what --json "$out/$what.json" -m 256M --device 02:00.0,bind -- sh -c 'echo ready; exec sleep 1000' >"$out/$what" 2>"$out/$what.err" & vm=$!
	until grep -q ready "$out/$what"; do kill -0 $vm; sleep 0.1; done
	printf '\2\0\0\0\0\200\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0' >/dev/aer_inject
	if [ $what = warn ]; then
		until grep -q "$told" "$out/warn.err"; do kill -0 $vm; sleep 0.1; done
		kill -KILL $vm
	fi
	status=0; wait $vm || status=$?
	cat "$out/$what.err"
	grep -q "$told" "$out/$what.err"
done
[ $status = 122 ]
grep '"reason": "device-error"' "$out/stop.json"
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

// TestHostModules joins guests to what the kernel of a nested host has as modules: its AF_VSOCK, by vhost-vsock, a macvtap,
// and errors of devices that it makes up.
func TestHostModules(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil {
		testenv.Missing(t, "iproute2", err.Error())
	}
	cache, kernel := debianKernel(t)
	host := vmtest.Lab(t, vmtest.LabConfig{Topology: "singleton", Kernel: "6.1"})
	for _, test := range []struct{ name, script string }{{"macvtap", hostMacvtap}, {"AER", hostAER}, {"vsock", hostVsock}} {
		t.Run(test.name, func(t *testing.T) {
			out, err := host.Command(t.Context(), "bash", "-ec", test.script, "bash", tools, kernel.Modules, cache.Dir()).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}
