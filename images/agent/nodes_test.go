package agent

import (
	"os"
	"path/filepath"
	"testing"
)

// TestNodes: what the kernel makes for root alone is open to those whom it serves, and a mapped device has its name.
func TestNodes(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("dev/fuse", "")
	write("dev/sda", "")
	write("sys/devices/virtual/block/dm-0/dm/name", "volume\n")
	write("sys/devices/virtual/block/dm-1/dm/name", "\n")
	n := nodes{root}
	for _, message := range []string{
		"add@/x\x00ACTION=add\x00SUBSYSTEM=misc\x00DEVNAME=fuse\x00",
		"add@/x\x00ACTION=add\x00SUBSYSTEM=block\x00DEVNAME=sda\x00",
		"add@/x\x00ACTION=add\x00SUBSYSTEM=misc\x00DEVNAME=kvm\x00", // gone again
		"change@/x\x00ACTION=change\x00DEVPATH=/devices/virtual/block/dm-0\x00SUBSYSTEM=block\x00DEVNAME=dm-0\x00",
		"change@/x\x00ACTION=change\x00DEVPATH=/devices/virtual/block/dm-1\x00SUBSYSTEM=block\x00DEVNAME=dm-1\x00",
		"", "\x00", "ACTION", "change@/x\x00ACTION=change\x00SUBSYSTEM=block\x00DEVNAME=dm-7",
	} {
		if err := n.handle(parseUevent([]byte(message))); err != nil {
			t.Errorf("%q: %v", message, err)
		}
	}
	for name, want := range map[string]os.FileMode{"fuse": 0o666, "sda": 0o600} {
		if info, err := os.Stat(filepath.Join(root, "dev", name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	mapper := filepath.Join(root, "dev/mapper")
	if target, err := os.Readlink(filepath.Join(mapper, "volume")); err != nil || target != "../dm-0" {
		t.Errorf("%q, %v", target, err)
	}
	write("sys/devices/virtual/block/dm-0/dm/name", "renamed\n")
	for _, action := range []string{"change", "remove"} {
		e := uevent{action: action, path: "/devices/virtual/block/dm-0", subsystem: "block", node: "dm-0"}
		if err := n.handle(e); err != nil {
			t.Error(err)
		}
		links, err := os.ReadDir(mapper)
		if err != nil {
			t.Fatal(err)
		}
		if action == "change" && (len(links) != 1 || links[0].Name() != "renamed") || action == "remove" && len(links) != 0 {
			t.Errorf("after %s: %v", action, links)
		}
	}
}
