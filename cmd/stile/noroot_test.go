package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/vmtest"
)

// TestWithoutRoot runs stile in the nested host as a user who has /dev/kvm and nothing else, with a folder, a disk and a network.
func TestWithoutRoot(t *testing.T) {
	p := passed{vmtest.Lab(t, vmtest.LabConfig{Topology: "singleton"})}
	kernel := defaultKernel(t)
	out, err := p.Command(t.Context(), "bash", "-euc", `
		cd /tmp && mkdir -p user/own roots && cp "$1" user/stile && cp "$2" user/vmlinuz && echo secret >user/own/secret && truncate -s 16M user/disk
		chmod 755 user user/* && chown -R 65534:65534 user && chown 0:0 user/own/secret && chmod 600 user/own/secret && chmod 666 /dev/kvm
		export HOME=/tmp/user TMPDIR=/tmp/user STILE_CACHE=/tmp/user/cache STILE_RUN_DIR=/tmp/user/run GUEST="$3"
		setpriv --reuid 65534 --regid 65534 --clear-groups user/stile run -m 192M -k user/vmlinuz --env GUEST \
			--rw /tmp/user/own --rw /tmp/roots --disk user/disk --net user -- bash -euc "$GUEST"
		stat -c 'on the host: %n %u:%g %a' user/own/* roots; ls roots`,
		"bash", filepath.Join(tools, "stile"), kernel, withoutRoot).CombinedOutput()
	for _, want := range []string{
		"all guest right\n", "on the host: user/own/new 65534:65534 755\n", "on the host: user/own/secret 0:0 600\n", "on the host: roots 0:0 755\n",
	} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%v, without %q: %s", err, want, out)
		}
	}
}

// withoutRoot is what root of such a user's guest can do, and can't.
const withoutRoot = `
cd /tmp/user/own
[ "$(stat -c %u:%g .)" = 0:0 ]
touch new && chown 12:34 new && chmod 4755 new && [ "$(stat -c '%u:%g %a' new)" = '12:34 4755' ]
cat secret 2>&1 | grep -q 'Permission denied'
touch /tmp/roots/file 2>&1 | grep -q 'Permission denied'
mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && cp new /mnt && umount /mnt
(exec 3<>/dev/tcp/10.0.2.2/1) 2>&1 | grep -q refused
echo all guest right`
