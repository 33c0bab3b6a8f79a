package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/vmtest"
)

// leaves mounts a disk and leaves it so: plainly, below and above other mounts, with a process that writes and a loop device in it, and
// in a mount namespace without a process.
const leaves = `set -e
for d in a b c d; do mkfs.ext4 -q /dev/vd$d; mkdir /mnt/$d; done
mount /dev/vda /mnt/a; echo kept >/mnt/a/file
mount /dev/vdb /mnt/b; mkdir /mnt/b/t; mount -t tmpfs t /mnt/b/t; mount --bind /mnt/b /srv; echo kept >/srv/file
mount /dev/vdc /mnt/c; truncate -s 4M /mnt/c/image; mkfs.ext4 -q /mnt/c/image; losetup /dev/loop0 /mnt/c/image
mkdir /mnt/loop; mount /dev/loop0 /mnt/loop; echo kept >/mnt/loop/file; echo kept >/mnt/c/file
setsid sh -c 'while :; do echo more; done >/mnt/c/log' &
mkdir /run/ns; mount --bind --make-private /run/ns /run/ns; touch /run/ns/held
unshare --mount=/run/ns/held sh -c 'mount /dev/vdd /mnt/d && echo kept >/mnt/d/file'
`

func leftDisks(t *testing.T) []string {
	var images []string
	for _, name := range []string{"a", "b", "c", "d"} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 24<<20); err != nil {
			t.Fatal(err)
		}
		images = append(images, path)
	}
	return images
}

func checkLeft(t *testing.T, images []string) {
	t.Helper()
	for _, image := range images {
		if head := tool(t, 0, "dumpe2fs", "-h", image); strings.Contains(head, "needs_recovery") {
			t.Errorf("%s: its journal needs recovery", filepath.Base(image))
		}
		tool(t, 0, "e2fsck", "-fn", image)
		if got := tool(t, 0, "debugfs", "-R", "cat /file", image); !strings.Contains(got, "kept\n") {
			t.Errorf("%s: the file reads %q", filepath.Base(image), got)
		}
	}
}

// TestLeftMounted: a file system that a command leaves mounted is whole at the end, and its journal empty, as after an unmount.
func TestLeftMounted(t *testing.T) {
	needGuests(t)
	t.Run("run", func(t *testing.T) {
		images := leftDisks(t)
		args := []string{"run"}
		for _, image := range images {
			args = append(args, "--disk", image)
		}
		ctx, cancel := context.WithTimeout(t.Context(), processLimit)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(tools, "stile"), append(args, "--", "sh", "-c", leaves)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		checkLeft(t, images)
		inner := filepath.Join(t.TempDir(), "image")
		tool(t, 0, "debugfs", "-R", "dump /image "+inner, images[2])
		checkLeft(t, []string{inner})
	})
	t.Run("vmtest", func(t *testing.T) {
		images := leftDisks(t)
		var c vmtest.Config
		for _, image := range images {
			var d vmtest.Disk
			d.Path = image
			c.Disks = append(c.Disks, d)
		}
		vm := vmtest.Start(t, c)
		if out, err := vm.Command(t.Context(), "sh", "-c", leaves).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := vm.Close(); err != nil {
			t.Fatal(err)
		}
		checkLeft(t, images)
	})
}
