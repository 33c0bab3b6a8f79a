package vmtest_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/vmtest"
)

// tool runs a program of the host that works on images, or ends the test where it is not there.
func tool(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		testenv.Missing(t, name, err.Error())
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

// TestDisks uses all kinds of disks with Linux's driver, in one boot.
func TestDisks(t *testing.T) {
	dir := t.TempDir()
	base := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{1}).Read(base[4<<20 : 6<<20])
	sum := fmt.Sprintf("%x", sha256.Sum256(base))
	if err := os.WriteFile(filepath.Join(dir, "base"), base, 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, dir, "qemu-img", "create", "-q", "-f", "raw", "written", "48M")
	tool(t, dir, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "overlay")
	tool(t, dir, "qemu-img", "convert", "-q", "-c", "-O", "qcow2", "base", "packed")
	overlay, err := os.ReadFile(filepath.Join(dir, "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	disk := func(name string) vmtest.Disk {
		var d vmtest.Disk
		d.Path = filepath.Join(dir, name)
		return d
	}
	written, thrown, packed := disk("written"), disk("overlay"), disk("packed")
	written.Serial, thrown.COW, packed.ReadOnly = "kept-0001", true, true
	vm := vmtest.Start(t, vmtest.Config{Disks: []vmtest.Disk{written, thrown, packed}})
	for _, tt := range []struct{ name, script, want string }{
		{"what they are", `cd /sys/block; cat vda/serial; echo; for d in vda vdb vdc; do
			read size < $d/size; read ro < $d/ro; read block < $d/queue/physical_block_size; read cache < $d/queue/write_cache
			echo $d $size $ro $block $cache; done`,
			"kept-0001\nvda 98304 0 4096 write back\nvdb 32768 0 4096 write back\nvdc 32768 1 4096 write back\n"},
		{"file system", `mkfs.ext4 -q /dev/vda && mkdir -p /mnt/a && mount /dev/vda /mnt/a
			dd if=/dev/urandom of=/mnt/a/data bs=1M count=4 2>/dev/null
			before=$(cksum < /mnt/a/data); umount /mnt/a; mount /dev/vda /mnt/a
			[ "$before" = "$(cksum < /mnt/a/data)" ] && echo same`, "same\n"},
		{"discard", `rm /mnt/a/data && fstrim /mnt/a && echo trimmed`, "trimmed\n"},
		{"backing file", `sha256sum < /dev/vdb | cut -d' ' -f1`, sum + "\n"},
		{"compressed clusters", `sha256sum < /dev/vdc | cut -d' ' -f1`, sum + "\n"},
		{"read-only", `dd if=/dev/zero of=/dev/vdc count=1 2>&1 | grep -c 'not permitted\|Read-only'`, "1\n"},
		{"parallel writes", `for i in 0 1 2 3; do
				head -c 1M /dev/urandom > /run/part$i
				dd if=/run/part$i of=/dev/vdb bs=64k seek=$((i * 16)) oflag=direct 2>/dev/null & pids="$pids $!"
			done; wait $pids
			for i in 0 1 2 3; do dd if=/dev/vdb bs=1M skip=$i count=1 iflag=direct 2>/dev/null | cmp - /run/part$i && echo $i; done`, "0\n1\n2\n3\n"},
		{"write zeroes", `blkdiscard -z -o 1048576 -l 1048576 /dev/vdb && dd if=/dev/vdb bs=1M skip=1 count=1 iflag=direct 2>/dev/null | tr -d '\0' | wc -c`, "0\n"},
		{"left for the power-off", `echo left > /mnt/a/left && echo ok`, "ok\n"},
	} {
		out, err := vm.Command(t.Context(), "sh", "-c", tt.script).Output()
		if err != nil || string(out) != tt.want {
			t.Errorf("%s: %v, %q, want %q", tt.name, err, out, tt.want)
		}
	}
	if err := vm.Close(); err != nil {
		t.Fatal(err)
	}
	tool(t, dir, "e2fsck", "-fn", "written")
	if got := tool(t, dir, "debugfs", "-R", "cat /left", "written"); !strings.Contains(got, "left") {
		t.Errorf("what the guest wrote last reads %q", got)
	}
	for name, want := range map[string][]byte{"base": base, "overlay": overlay} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
			t.Errorf("%s was changed (%v)", name, err)
		}
	}
}
