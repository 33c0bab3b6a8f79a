package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images/agent"
	"github.com/stile-vmm/stile/internal/trust"
)

const (
	// envNested is internal/guest's: set for processes in the lab's nested host.
	envNested = "STILE_NESTED"
	// EnvOuter names the environment variable that tells a process in the nested host where the cache of the stile outside is.
	EnvOuter = "STILE_OUTER_CACHE"
	// systemCache is root's, for what is loaded into this host's kernel.
	systemCache = "/var/cache/stile"
)

// place chooses where a cache is. What others have put there would be loaded and run with the caller's rights, so that root takes no
// folder that another user can change, whatever the environment says: sudo may have kept that of the user.
type place struct {
	root   bool // checks who owns a folder; not in the nested host, which is thrown away
	uid    int
	getenv func(string) string
	home   string // root's
	system string
}

func here() place {
	p := place{root: os.Geteuid() == 0 && !inNestedHost(), uid: os.Geteuid(), getenv: os.Getenv, system: systemCache}
	if p.root {
		if u, err := user.LookupId(strconv.Itoa(p.uid)); err == nil {
			p.home = u.HomeDir
		}
	}
	return p
}

// inNestedHost tells the nested host from one whose environment merely says so: only root makes that folder.
func inNestedHost() bool {
	return os.Getenv(envNested) == "1" && rootsFolder(filepath.Dir(agent.Preloaded)) && rootsFolder(agent.Preloaded)
}

func rootsFolder(dir string) bool {
	var st unix.Stat_t
	return unix.Lstat(dir, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Uid == 0 && st.Mode&0o022 == 0
}

// Open opens the cache in dir; when dir is empty, in the folder that EnvCache names, or else in the user's
// cache folder, or, where that can't be written, in one for temporary files. For root, a folder that another user can
// change is refused, and the user's cache folder is not looked for by HOME, but in root's home.
func Open(dir string) (*Cache, error) { return here().open(dir) }

// OpenModules opens the cache of what is loaded into this host's kernel: for root /var/cache/stile, unless EnvCache names one.
func OpenModules() (*Cache, error) { return here().openModules() }

// OpenOuter opens the cache of the stile that has started the nested host in which this process runs; nil where there is none.
func OpenOuter() *Cache {
	dir := os.Getenv(EnvOuter)
	if dir == "" || !inNestedHost() {
		return nil
	}
	c, err := here().at(dir)
	if err != nil {
		return nil // only a shortcut is lost
	}
	return c
}

func (p place) open(dir string) (*Cache, error) {
	if dir == "" {
		dir = p.getenv(EnvCache)
	}
	if dir != "" {
		c, err := p.at(dir)
		if err != nil {
			return nil, fmt.Errorf("cache: %w (%s names another folder)", err, EnvCache)
		}
		return c, nil
	}
	for _, dir := range p.usual() {
		if c, err := p.at(dir); err == nil {
			return c, nil
		}
	}
	return p.temporary()
}

func (p place) openModules() (*Cache, error) {
	if !p.root || p.getenv(EnvCache) != "" {
		return p.open("")
	}
	c, err := p.at(p.system)
	if err != nil {
		return nil, fmt.Errorf("cache: %w (%s names another folder)", err, EnvCache)
	}
	return c, nil
}

// at opens the cache in dir.
func (p place) at(dir string) (*Cache, error) {
	c := &Cache{dir: dir}
	if err := p.check(dir); err != nil {
		return nil, err
	}
	if err := c.prepare(); err != nil {
		return nil, err
	}
	return c, p.check(c.dir) // nobody was faster than prepare
}

func (p place) check(dir string) error {
	if !p.root {
		return nil
	}
	if err := trust.Check(dir, p.uid); err != nil {
		return fmt.Errorf("%s is not safe for root: %w", dir, err)
	}
	return nil
}

// usual returns the folders of which the first that can be written is the cache.
func (p place) usual() []string {
	if !p.root {
		dir, err := os.UserCacheDir()
		if err != nil {
			return nil
		}
		return []string{filepath.Join(dir, "stile")}
	}
	var dirs []string
	if dir := p.getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		dirs = append(dirs, filepath.Join(dir, "stile"))
	}
	if filepath.IsAbs(p.home) {
		dirs = append(dirs, filepath.Join(p.home, ".cache", "stile"))
	}
	return append(dirs, p.system)
}

// OpenAll opens the cache, and the one of OpenModules where that is another and there is one.
func OpenAll() ([]*Cache, error) {
	p := here()
	c, err := p.open("")
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(p.system); !p.root || err != nil {
		return []*Cache{c}, nil
	}
	modules, err := p.openModules()
	if err != nil {
		return nil, err
	}
	if modules.Dir() == c.Dir() {
		return []*Cache{c}, nil
	}
	return []*Cache{c, modules}, nil
}

// temporary opens a cache in the folder for temporary files, where others may have put anything: it has to be ours alone.
func (p place) temporary() (*Cache, error) {
	dir := filepath.Join(trust.TempDir(), "stile-"+strconv.Itoa(p.uid))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("cache: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return nil, fmt.Errorf("cache %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != p.uid || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("cache: %s belongs to somebody else: set %s to a folder of yours", dir, EnvCache)
	}
	c, err := p.at(dir)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return c, nil
}
