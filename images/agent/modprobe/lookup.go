package modprobe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stile-vmm/stile/images/kmod"
)

// module is something that can be loaded.
type module struct {
	name    string
	alias   string   // what it was asked for by, if that is not its name
	path    string   // "" if it is built in, or there is only a command for it
	needs   []module // what it depends on, in the order in which it is loaded
	builtin bool
}

// tree is the folder of a kernel's modules.
type tree struct {
	dir     string
	sys     string // /sys/module
	config  *config
	indexes map[string]*kmod.Index
	files   []*os.File
}

func openTree(dir, sys string, c *config) *tree {
	return &tree{dir: dir, sys: sys, config: c, indexes: make(map[string]*kmod.Index)}
}

func (t *tree) close() {
	for _, f := range t.files {
		f.Close()
	}
}

// index opens an index once; it returns nil for one that is not there.
func (t *tree) index(name string) (*kmod.Index, error) {
	if x, ok := t.indexes[name]; ok {
		return x, nil
	}
	f, err := os.Open(filepath.Join(t.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		t.indexes[name] = nil
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t.files = append(t.files, f)
	x, err := kmod.OpenIndex(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	t.indexes[name] = x
	return x, nil
}

// values returns what an index has for a name: for the same key, or for patterns that match it.
func (t *tree) values(index, name string, patterns bool) ([]string, error) {
	x, err := t.index(index)
	if x == nil || err != nil {
		return nil, err
	}
	find := x.Get
	if patterns {
		find = x.Find
	}
	found, err := find(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(t.dir, index), err)
	}
	texts := make([]string, len(found))
	for i, v := range found {
		texts[i] = v.Text
	}
	return texts, nil
}

// lookup returns what a name stands for: aliases of the configuration come before modules, and those before aliases of modules.
func (t *tree) lookup(name string) ([]module, error) {
	key, err := kmod.Normalize(name)
	if err != nil {
		return nil, err
	}
	var found []module
	for _, a := range t.config.aliases {
		if kmod.Match(a.name, key) {
			found = append(found, module{name: a.text, alias: name})
		}
	}
	if len(found) > 0 {
		return t.complete(found)
	}
	m, ok, err := t.named(key)
	if ok || err != nil {
		return []module{m}, err
	}
	for _, index := range []string{kmod.SymbolIndex, kmod.AliasIndex, kmod.BuiltinAliasIndex} {
		if index == kmod.SymbolIndex && !strings.HasPrefix(key, "symbol:") {
			continue
		}
		names, err := t.values(index, key, true)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			found = append(found, module{name: n, alias: name})
		}
		if len(found) > 0 {
			return t.complete(found)
		}
	}
	return nil, nil
}

// named returns the module of a name: a file, what is built in, what has a command, or what runs already.
func (t *tree) named(name string) (m module, ok bool, err error) {
	m.name = name
	lines, err := t.values(kmod.DepIndex, name, false)
	if err != nil {
		return m, false, err
	}
	if len(lines) > 0 {
		t.parseLine(&m, lines[0])
		return m, true, nil
	}
	builtin, err := t.values(kmod.BuiltinIndex, name, false)
	if err != nil {
		return m, false, err
	}
	m.builtin = len(builtin) > 0
	_, install := command(t.config.install, name)
	_, remove := command(t.config.remove, name)
	if m.builtin || install || remove || t.state(name) != absent {
		return m, true, nil
	}
	return m, false, nil
}

// complete looks for the modules of names.
func (t *tree) complete(found []module) ([]module, error) {
	for i := range found {
		m, _, err := t.named(found[i].name)
		if err != nil {
			return nil, err
		}
		m.alias = found[i].alias
		found[i] = m
	}
	return found, nil
}

// parseLine takes a line of modules.dep, in which what is loaded first comes last.
func (t *tree) parseLine(m *module, line string) {
	path, others, _ := strings.Cut(line, ":")
	m.path = filepath.Join(t.dir, path)
	for _, other := range slices.Backward(strings.Fields(others)) {
		m.needs = append(m.needs, module{name: kmod.Name(other), path: filepath.Join(t.dir, other)})
	}
}

// file returns the module in a file that somebody names.
func (t *tree) file(path string) (module, error) {
	info, err := kmod.ReadInfo(path)
	if err != nil {
		return module{}, err
	}
	m := module{name: kmod.Name(path), path: path}
	seen := make(map[string]bool)
	for _, name := range info.Depends {
		other, ok, err := t.named(name)
		if err != nil {
			return m, err
		}
		for _, n := range append(other.needs, other) {
			if ok && !seen[n.name] {
				seen[n.name] = true
				m.needs = append(m.needs, n)
			}
		}
	}
	return m, nil
}

// state is how a module stands in the kernel.
type state int

const (
	absent  state = iota
	loading       // or unloading
	live
	static // built in
)

func (t *tree) state(name string) state {
	if _, err := os.Stat(filepath.Join(t.sys, name)); err != nil || strings.Contains(name, "/") {
		return absent
	}
	text, err := os.ReadFile(filepath.Join(t.sys, name, "initstate"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return static
	case strings.TrimSpace(string(text)) == "live":
		return live
	}
	return loading
}
