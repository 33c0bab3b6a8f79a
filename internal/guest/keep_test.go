package guest

import (
	"os"
	"slices"
	"testing"
)

// TestKeptPaths: only what is below the guest's own folders is kept, once each.
func TestKeptPaths(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"HOME", "GOTMPDIR", "GOCACHE", "GOROOT", "GOPATH", "SHELL", EnvNested} {
		t.Setenv(name, "")
	}
	t.Setenv("TMPDIR", "/run/user/1000/")
	t.Setenv("PATH", "/usr/bin:/run/wrappers/bin::/runner:relative:/dev/shm/../shm/tools:/run:/run/wrappers/bin")
	want := []string{"/dev/shm/work", "/run/user/1000", "/run/wrappers/bin", "/dev/shm/tools"}
	got := slices.DeleteFunc(keptPaths("/dev/shm/work"), func(path string) bool { // this host's own links
		info, err := os.Lstat(path)
		return err == nil && info.Mode()&os.ModeSymlink != 0
	})
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	t.Setenv(EnvNested, "1")
	t.Setenv(envKept, `["/run/outside","/etc"]`)
	if got := keptPaths(); !slices.Contains(got, "/run/outside") || slices.Contains(got, "/etc") {
		t.Errorf("in the nested host %q", got)
	}
}

// TestKeptModules: a cache below /run, as the nested host has it, is no reason for a kernel without its modules.
func TestKeptModules(t *testing.T) {
	const modules = "/run/stile-cache/modules/key/lib/modules/6.12"
	if got := setup(Spec{Root: RootHost}, Images{Modules: modules}).Keep; !slices.Contains(got, modules) {
		t.Errorf("%q", got)
	}
}
