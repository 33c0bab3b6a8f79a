package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/vmtest"
)

// tool runs a program of the host that works on images, or ends the test where it is not there. Statuses above most fail.
func tool(t *testing.T, most int, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		testenv.Missing(t, name, err.Error())
	}
	cmd := exec.Command(path, args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() > most {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

// records makes a file system, and then writes records as long as it lives. Each is said to be there when it is on the disk.
// Other writes are always under way.
const records = `mkfs.ext4 -q /dev/vda && mkdir -p /mnt/a && mount /dev/vda /mnt/a
(while :; do dd if=/dev/zero of=/mnt/a/noise bs=256k count=16 conv=notrunc,fsync 2>/dev/null; done) &
i=0; while :; do i=$((i + 1)); echo "record $i" > /mnt/a/record$i; sync /mnt/a/record$i; echo "flushed $i"; done`

// TestPowerCut kills stile while its guest writes. The file system is whole afterwards, and what was flushed is there.
func TestPowerCut(t *testing.T) {
	needGuests(t)
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 48<<20); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "run", "--disk", image+",serial=power", "--", "sh", "-c", records)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(processLimit, func() { cmd.Process.Kill() })
	defer kill.Stop()
	const enough = 8
	flushed := 0
	for lines := bufio.NewScanner(stdout); flushed < enough && lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "flushed %d", &flushed); err != nil {
			t.Errorf("the guest said %q", lines.Text())
		}
	}
	second := exec.Command(filepath.Join(tools, "stile"), "run", "--disk", image, "--", "true")
	if out, err := second.CombinedOutput(); err == nil || !bytes.Contains(out, fmt.Appendf(nil, "in use by process %d", cmd.Process.Pid)) {
		t.Errorf("a second stile: %v, %s", err, out)
	}
	children := descendants(t, cmd.Process.Pid)
	cmd.Process.Kill()
	_ = cmd.Wait()
	awaitGone(t, children) // a write may be under way
	if flushed < enough {
		t.Fatalf("%d records were flushed", flushed)
	}
	tool(t, 1, "e2fsck", "-fy", image) // status 1: the journal was replayed
	tool(t, 0, "e2fsck", "-fn", image)
	for i := 1; i <= flushed; i++ {
		got := tool(t, 0, "debugfs", "-R", fmt.Sprintf("cat /record%d", i), image)
		if !strings.Contains(got, fmt.Sprintf("record %d\n", i)) {
			t.Errorf("record %d was flushed and reads %q", i, got)
		}
	}
}

// TestDiskTrouble gives a guest in the nested host a block device of it and images, with two queues each. It resets them at work,
// lets them grow, lose their end and run out of space.
func TestDiskTrouble(t *testing.T) {
	p := passed{vmtest.Lab(t, vmtest.LabConfig{Topology: "singleton"})}
	disk := filepath.Join(tools, "disk")
	cmd := p.Command(t.Context(), disk, "host", filepath.Join(tools, "stile"), "/dev/nvme0n1", disk)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || !strings.HasSuffix(string(out), "all host right\n") {
		t.Fatalf("%v: %s%s", err, out, &stderr)
	}
	t.Logf("%s%s", out, &stderr)
}

// TestRootImage boots a guest whose root is an image, which stays as it is.
func TestRootImage(t *testing.T) {
	needGuests(t)
	dir := t.TempDir()
	root, image := filepath.Join(dir, "root"), filepath.Join(dir, "image")
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(filepath.Join(tools, "stile"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/program"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	tool(t, 0, "mke2fs", "-q", "-t", "ext4", "-d", root, image, "64M")
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(dir, "report.json")
	cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "run", "--json", report, "--root", image, "--", "/bin/program", "version")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("stile")) {
		t.Errorf("%v: %s", err, out)
	}
	if after, err := os.ReadFile(image); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the image was changed (%v)", err)
	}
	noExits(t, report, "virtio disk 0")
}
