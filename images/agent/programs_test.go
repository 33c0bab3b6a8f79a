package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLackingPrograms(t *testing.T) {
	bin, sbin := t.TempDir(), t.TempDir()
	for _, path := range []string{filepath.Join(bin, "lsmod"), filepath.Join(sbin, "modprobe"), filepath.Join(sbin, "lsmod")} {
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(bin, "rmmod"), nil, 0o644); err != nil { // no program
		t.Fatal(err)
	}
	want := map[string]string{"modprobe": filepath.Join(sbin, "modprobe"), "insmod": programFile, "rmmod": programFile}
	if diff := cmp.Diff(want, lackingPrograms("/no/such:"+bin, sbin)); diff != "" {
		t.Error(diff)
	}
	if !Offers("modprobe") || Offers("depmod") {
		t.Error("depmod is offered, or modprobe is not")
	}
}
