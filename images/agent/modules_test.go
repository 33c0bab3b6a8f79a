package agent

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/testenv"
)

func TestMakeNodes(t *testing.T) {
	if os.Geteuid() != 0 {
		testenv.Missing(t, "root", "device nodes")
	}
	modules, dev := t.TempDir(), t.TempDir()
	list := "# Device nodes to trigger on-demand module loading.\nloop loop-control c10:237\ntun net/tun c10:200\n\ncut\nevil ../../up c1:3\nodd block b7:0\n"
	if err := os.WriteFile(filepath.Join(modules, "modules.devname"), []byte(list), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what is there stays
		if err := makeNodes(modules, dev); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]struct {
		mode   uint32
		number uint64
	}{
		"loop-control": {unix.S_IFCHR | 0o600, unix.Mkdev(10, 237)},
		"net/tun":      {unix.S_IFCHR | 0o666, unix.Mkdev(10, 200)},
		"block":        {unix.S_IFBLK | 0o600, unix.Mkdev(7, 0)},
	} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dev, name), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode != want.mode || st.Rdev != want.number {
			t.Errorf("%s: mode %o, number %#x; want %o, %#x", name, st.Mode, st.Rdev, want.mode, want.number)
		}
	}
	if left, _ := os.ReadDir(dev); len(left) != 3 {
		t.Errorf("%v", left)
	}
	if err := makeNodes(t.TempDir(), dev); err != nil {
		t.Errorf("without a list: %v", err)
	}
}
