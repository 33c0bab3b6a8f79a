package images

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// anyone is a place of a user that is not root, whoever runs the test.
func anyone() place { return place{uid: os.Geteuid(), getenv: os.Getenv} }

func TestOpen(t *testing.T) {
	home, tmp := t.TempDir(), t.TempDir()
	t.Setenv("XDG_CACHE_HOME", home)
	t.Setenv("TMPDIR", tmp)
	t.Setenv(EnvCache, "")
	if c, err := anyone().open(""); err != nil || c.Dir() != filepath.Join(home, "stile") {
		t.Errorf("Open: %v, %v", c, err)
	}
	t.Setenv("XDG_CACHE_HOME", writeFile(t, filepath.Join(tmp, "file"), nil)) // can't be a folder
	c, err := anyone().open("")
	if err != nil || filepath.Dir(c.Dir()) != tmp {
		t.Fatalf("Open without a cache folder: %v, %v", c, err)
	}
	if err := os.Chmod(c.Dir(), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := anyone().open(""); err == nil {
		t.Error("opened a folder that anybody can write")
	}
	t.Setenv(EnvCache, filepath.Join(home, "mine"))
	if c, err := Open(""); err != nil || c.Dir() != filepath.Join(home, "mine") {
		t.Errorf("Open: %v, %v", c, err)
	}
}

// asRoot is root's place in a made-up host: home and system are root's, his belongs to another user.
type asRoot struct {
	place
	his string
	env map[string]string
}

func newRoot(t *testing.T) *asRoot {
	t.Helper()
	top, env := t.TempDir(), map[string]string{}
	r := &asRoot{his: filepath.Join(top, "his"), env: env, place: place{
		root: true, uid: os.Geteuid(), home: filepath.Join(top, "root"), system: filepath.Join(top, "var"), getenv: func(name string) string { return env[name] },
	}}
	for _, dir := range []string{r.his, r.home} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(r.his, 0o777); err != nil { // as good as another's, and takes no privileges
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(r.his, 12345, 12345); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// TestRootsCache: whatever the environment of a user says, root opens no cache that this user could have filled, and writes nothing there.
func TestRootsCache(t *testing.T) {
	r := newRoot(t)
	r.env["XDG_CACHE_HOME"] = r.his
	c, err := r.open("")
	if err != nil || c.Dir() != filepath.Join(r.home, ".cache", "stile") {
		t.Errorf("with his XDG_CACHE_HOME: %v, %v", c, err)
	}
	if err := os.Symlink(r.his, filepath.Join(r.home, "link")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{r.his, filepath.Join(r.his, "sub", "cache"), filepath.Join(r.home, "link"), filepath.Join(r.home, "link", "cache")} {
		r.env[EnvCache] = dir
		if _, err := r.open(""); err == nil || !strings.Contains(err.Error(), "is not safe for root") || !strings.Contains(err.Error(), r.his) || !strings.Contains(err.Error(), EnvCache) {
			t.Errorf("%s=%s: %v", EnvCache, dir, err)
		}
		if _, err := r.openModules(); err == nil {
			t.Errorf("%s=%s is taken for modules", EnvCache, dir)
		}
		if _, err := r.open(dir); err == nil {
			t.Errorf("%s is opened by its name", dir)
		}
	}
	if files, err := os.ReadDir(r.his); err != nil || len(files) > 0 {
		t.Errorf("written to the other user's folder: %v, %v", files, err)
	}
	r.env[EnvCache] = ""
	if c, err := r.openModules(); err != nil || c.Dir() != r.system {
		t.Errorf("modules: %v, %v", c, err)
	}
}

// TestHomeOfAnotherUser: a home that is not root's leaves the system's cache.
func TestHomeOfAnotherUser(t *testing.T) {
	r := newRoot(t)
	r.home = r.his
	if c, err := r.open(""); err != nil || c.Dir() != r.system {
		t.Errorf("%v, %v", c, err)
	}
}

// TestNestedIsNotClaimed: an environment that says so does not make this host the nested one.
func TestNestedIsNotClaimed(t *testing.T) {
	t.Setenv(envNested, "1")
	t.Setenv(EnvOuter, t.TempDir())
	if inNestedHost() || OpenOuter() != nil {
		t.Error("the environment made this host the nested one")
	}
}

// TestLockBehindLink: a link in place of a lock is not followed.
func TestLockBehindLink(t *testing.T) {
	c := openTest(t)
	victim := writeFile(t, filepath.Join(t.TempDir(), "victim"), []byte("text"))
	if err := os.Symlink(victim, c.lockPath(KindKernel, "key")); err != nil {
		t.Fatal(err)
	}
	if unlock, err := c.tryLock(KindKernel, "key"); err == nil {
		unlock()
		t.Error("a link was taken for the lock")
	}
}
