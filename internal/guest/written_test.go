package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/images"
)

// TestGuestsLinks: what a guest has put in place of a folder's entry leads the next run nowhere.
func TestGuestsLinks(t *testing.T) {
	t.Setenv(images.EnvCache, t.TempDir())
	top := t.TempDir()
	work, secret := filepath.Join(top, "work"), filepath.Join(top, "secret")
	for _, dir := range []string{filepath.Join(work, "sub"), secret} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{filepath.Join(top, "mine"): work, filepath.Join(work, "out"): secret, filepath.Join(work, "sub", "log"): "/etc/hostname"} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	out := Spec{Folders: []Folder{{Mode: FolderRW, Host: filepath.Join(work, "out")}}}
	if err := out.validateLinks(); err != nil {
		t.Errorf("no guest could change it yet: %v", err)
	}
	if err := (Spec{Folders: []Folder{{Mode: FolderRW, Host: filepath.Join(top, "mine")}}}).noteWritten(); err != nil {
		t.Fatal(err)
	}
	for path, refused := range map[string]bool{
		work: false, filepath.Join(top, "mine"): false, filepath.Join(top, "mine", "sub"): false, secret: false,
		filepath.Join(work, "out"): true, filepath.Join(top, "mine", "out", "x"): true, filepath.Join(work, "sub", "log"): true, filepath.Join(work, "new"): false,
	} {
		err := CheckLinks("--rw", path)
		if (err != nil) != refused || refused && (!strings.Contains(err.Error(), "symbolic link in "+work) || !strings.Contains(err.Error(), "name what it leads to")) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := out.validateLinks(); err == nil || !strings.Contains(err.Error(), secret) {
		t.Errorf("--rw: %v", err)
	}
	if err := (Spec{Folders: []Folder{{Mode: FolderRO, Host: work}}}).noteWritten(); err != nil {
		t.Error(err)
	}
}
