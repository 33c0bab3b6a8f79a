package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/testenv"
)

// TestFolders gives a guest folders of each kind, and lets testdata/folders try there what programs do with files.
func TestFolders(t *testing.T) {
	needGuests(t)
	dir := t.TempDir()
	for _, folder := range []string{"ro/inside", "rw/many", "cow/folder"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"ro/file", "cow/file"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte("from the host\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	entries := 5_000
	if testenv.Soak() {
		entries = 100_000
	}
	makeEntries(t, filepath.Join(dir, "rw/many"), entries)
	ro, rw, cow := filepath.Join(dir, "ro"), filepath.Join(dir, "rw"), filepath.Join(dir, "cow")
	report := filepath.Join(t.TempDir(), "report.json")
	cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "run", "-m", "512M", "--json", report, "--env", "STILE_SOAK="+os.Getenv("STILE_SOAK"),
		"--rw", filepath.Join(ro, "inside")+"="+rw, "--ro", ro, "--rw", "/mnt/rw="+rw, "--cow", cow, "--",
		filepath.Join(tools, "folders"), "all", ro, "/mnt/rw", cow)
	cmd.Stderr = os.Stderr
	limit := processLimit
	if testenv.Soak() {
		limit *= 4 // git and make take minutes beside other work
	}
	kill := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	defer kill.Stop()
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) < 10 {
		t.Errorf("%d things were tried", len(lines))
	}
	for _, line := range lines {
		verdict, what, _ := strings.Cut(line, " ")
		name, why, _ := strings.Cut(what, ": ")
		t.Run(name, func(t *testing.T) {
			switch verdict {
			case "right":
			case "missing":
				thing, why, _ := strings.Cut(why, ": ")
				testenv.Missing(t, thing, why)
			default:
				t.Error(why)
			}
		})
	}
	t.Run("host", func(t *testing.T) { foldersAfter(t, ro, rw, cow) })
	t.Run("exits", func(t *testing.T) { noExits(t, report, "virtio 9p stile.2") }) // of the folder where all was tried
}

// makeEntries fills a folder as the guest expects it.
func makeEntries(t *testing.T, dir string, entries int) {
	if err := os.WriteFile(filepath.Join(dir, "entries"), []byte(strconv.Itoa(entries)), 0o644); err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// foldersAfter looks at what the guest has left on the host.
func foldersAfter(t *testing.T, ro, rw, cow string) {
	for _, file := range []string{filepath.Join(ro, "file"), filepath.Join(cow, "file")} {
		if b, err := os.ReadFile(file); err != nil || string(b) != "from the host\n" {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
	if _, err := os.Stat(filepath.Join(cow, "folder")); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(ro, "inside")); err != nil || len(left) > 0 {
		t.Errorf("below the nested folder: %v, %v", left, err)
	}
	if info, err := os.Stat(filepath.Join(rw, "sparse-file/file")); err != nil || info.Size() != 5<<30+3 {
		t.Errorf("sparse file: %v, %v", info, err)
	}
	if b, err := os.ReadFile(filepath.Join(rw, "shared-mapping/file")); err != nil || !strings.HasPrefix(string(b), "first second") {
		t.Errorf("shared mapping: %.12q, %v", b, err)
	}
	if info, err := os.Stat(filepath.Join(rw, "owners/file")); err != nil || info.Mode()&fs.ModeSetuid != 0 {
		t.Errorf("set-user-ID on the host: %v, %v", info, err)
	} else if st := info.Sys().(*syscall.Stat_t); os.Geteuid() == 0 && (st.Uid != 12 || st.Gid != 34) {
		t.Errorf("owner on the host: %d:%d", st.Uid, st.Gid)
	}
	if info, err := os.Lstat(filepath.Join(rw, "special-files/zero")); err != nil || !info.Mode().IsRegular() || info.Size() != 0 {
		t.Errorf("what the guest's device node is on the host: %v, %v", info, err)
	}
	if left, err := os.ReadDir(cow); err != nil || len(left) != 2 {
		t.Errorf("copy on write: %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(rw, "no-name-any-more/file")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file without a name: %v", err)
	}
}
