package kmod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// Names of the indexes that modprobe looks into.
const (
	DepIndex          = "modules.dep.bin"
	AliasIndex        = "modules.alias.bin"
	SymbolIndex       = "modules.symbols.bin"
	BuiltinIndex      = "modules.builtin.bin"
	BuiltinAliasIndex = "modules.builtin.alias.bin"
	// SoftdepList has the soft dependencies of modules, in the form of modprobe.d(5).
	SoftdepList = "modules.softdep"
	// DevnameList has a line "MODULE NODE cMAJOR:MINOR" for each device node whose first use has the kernel load a module.
	DevnameList = "modules.devname"
)

// Files returns the paths in dir, a lib/modules/RELEASE folder, of its modules, sorted. The folders (or links to them) of the kernel's
// build and source are left out.
func Files(dir string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == "build" || name == "source"):
			return fs.SkipDir
		case d.Type().IsRegular() && IsModule(name):
			files = append(files, name)
		}
		return nil
	})
	return files, err
}

// WriteIndexes writes into dir, a lib/modules/RELEASE folder, what depmod does: modules.dep, .alias, .symbols and their .bin,
// .softdep, .weakdep, .devname and the indexes of what is built in. Modules depend on each other as they say themselves. Of several
// modules of one name the one is taken that lies in updates, else in extra, else in any other folder, weak-updates last: what
// distributions have depmod.d(5) say; that configuration is not read.
func WriteIndexes(ctx context.Context, dir string) error {
	files, err := Files(dir)
	if err != nil {
		return err
	}
	order, err := readOptional(dir, OrderList)
	if err != nil {
		return err
	}
	t := &tree{modules: arrange(files, parseOrder(string(order)))}
	if err := t.readInfos(ctx, dir); err != nil {
		return err
	}
	builtin, err := readOptional(dir, BuiltinList)
	if err != nil {
		return err
	}
	t.builtin = parseBuiltin(string(builtin))
	info, err := readOptional(dir, BuiltinInfo)
	if err != nil {
		return err
	}
	t.builtinAliases = parseBuiltinInfo(info)
	return t.write(dir)
}

// module is one of a tree.
type module struct {
	name, path string // path is below the tree's folder
	info       *Info
}

// tree is what the indexes are made from.
type tree struct {
	modules        []module // in their order
	builtin        []string
	builtinAliases []builtinAlias
}

// Choose returns, by name, the paths of the modules that WriteIndexes takes of files, which Files returned.
func Choose(files []string) map[string]string {
	best := make(map[string]string)
	for _, path := range files {
		name := Name(path)
		if other, ok := best[name]; !ok || rank(path) < rank(other) {
			best[name] = path
		}
	}
	return best
}

// arrange chooses one module of each name, and orders them.
func arrange(files []string, order map[string]int) []module {
	best := Choose(files)
	modules := make([]module, 0, len(best))
	for name, path := range best {
		modules = append(modules, module{name: name, path: path})
	}
	place := func(m module) int {
		if i, ok := order[orderKey(m.path)]; ok {
			return i
		}
		return len(order)
	}
	slices.SortFunc(modules, func(a, b module) int {
		return cmp.Or(cmp.Compare(place(a), place(b)), strings.Compare(a.path, b.path))
	})
	return modules
}

// rank is lower for a module that is taken before one of the same name.
func rank(path string) int {
	top, _, _ := strings.Cut(path, "/")
	if i := slices.Index([]string{"updates", "extra", "", "weak-updates"}, top); i >= 0 {
		return i
	}
	return 2
}

// readInfos reads all modules, which takes most of the time: on all processors. One that is damaged says nothing; the kernel refuses it
// when it is loaded.
func (t *tree) readInfos(ctx context.Context, dir string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan *module)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			var r reader
			for m := range next {
				info, err := r.info(filepath.Join(dir, m.path))
				if fault := (*fs.PathError)(nil); errors.As(err, &fault) {
					cancel(err)
				}
				m.info = cmp.Or(info, &Info{})
			}
		})
	}
	for i := range t.modules {
		select {
		case next <- &t.modules[i]:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}

func (t *tree) write(dir string) error {
	dep, depIndex := t.dependencies()
	alias, aliasIndex := t.aliases()
	symbols, symbolIndex := t.symbols()
	builtin, builtinAliases := t.builtinIndexes()
	for _, index := range []struct {
		name string
		w    *indexWriter
	}{
		{AliasIndex, aliasIndex}, {SymbolIndex, symbolIndex}, {BuiltinIndex, builtin}, {BuiltinAliasIndex, builtinAliases}, {DepIndex, depIndex},
	} {
		file, err := index.w.bytes()
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, index.name), file, 0o644)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", index.name, err)
		}
	}
	for name, text := range map[string]string{
		"modules.dep":     dep,
		"modules.alias":   alias,
		"modules.symbols": symbols,
		SoftdepList:       t.lines("Soft dependencies extracted from modules themselves.", "softdep", func(i *Info) []string { return i.Softdeps }),
		"modules.weakdep": t.lines("Weak dependencies extracted from modules themselves.", "weakdep", func(i *Info) []string { return i.Weakdeps }),
		DevnameList:       t.devnames(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// dependencies returns modules.dep, lines like "kernel/a.ko: kernel/b.ko kernel/c.ko" with all that a module needs, what is loaded
// first at the end.
func (t *tree) dependencies() (string, *indexWriter) {
	byName := make(map[string]int)
	for i, m := range t.modules {
		byName[m.name] = i
	}
	var text strings.Builder
	w := &indexWriter{}
	for i, m := range t.modules {
		line := m.path + ":"
		needed := t.needed(i, byName)
		for _, other := range slices.Backward(needed) {
			line += " " + t.modules[other].path
		}
		text.WriteString(line + "\n")
		w.add(m.name, line, i)
	}
	return text.String(), w
}

// needed returns what a module depends on, itself left out, each after what it depends on.
func (t *tree) needed(i int, byName map[string]int) []int {
	var order []int
	seen := map[int]bool{i: true} // also in a circle, which only a damaged tree has
	var visit func(int)
	visit = func(i int) {
		for _, name := range t.modules[i].info.Depends {
			other, ok := byName[name]
			if !ok || seen[other] {
				continue // built in, or missing
			}
			seen[other] = true
			visit(other)
			order = append(order, other)
		}
	}
	visit(i)
	return order
}

// aliases returns modules.alias, lines like "alias fs-xfs xfs".
func (t *tree) aliases() (string, *indexWriter) {
	var text strings.Builder
	text.WriteString("# Aliases extracted from modules themselves.\n")
	w := &indexWriter{}
	for i, m := range t.modules {
		for _, alias := range m.info.Aliases {
			key, err := Normalize(alias)
			if err != nil {
				continue // it could not be looked up
			}
			fmt.Fprintf(&text, "alias %s %s\n", alias, m.name)
			w.add(key, m.name, i)
		}
	}
	return text.String(), w
}

// symbols returns modules.symbols, lines like "alias symbol:xfs_foo xfs".
func (t *tree) symbols() (string, *indexWriter) {
	var text strings.Builder
	text.WriteString("# Aliases for symbols, used by symbol_request().\n")
	w := &indexWriter{}
	for i, m := range t.modules {
		for _, symbol := range m.info.Symbols {
			fmt.Fprintf(&text, "alias symbol:%s %s\n", symbol, m.name)
			w.add("symbol:"+symbol, m.name, i)
		}
	}
	return text.String(), w
}

func (t *tree) builtinIndexes() (names, aliases *indexWriter) {
	names, aliases = &indexWriter{}, &indexWriter{}
	for _, name := range t.builtin {
		names.add(name, "", 0)
	}
	for _, a := range t.builtinAliases {
		if key, err := Normalize(a.alias); err == nil {
			aliases.add(key, a.module, 0)
		}
	}
	return names, aliases
}

// lines returns a list that has one line for each of what a module says.
func (t *tree) lines(comment, word string, say func(*Info) []string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "# %s\n", comment)
	for _, m := range t.modules {
		for _, what := range say(m.info) {
			fmt.Fprintf(&text, "%s %s %s\n", word, m.name, what)
		}
	}
	return text.String()
}

// devnames returns modules.devname: of modules that have aliases for a node's name and for its number.
func (t *tree) devnames() string {
	var text strings.Builder
	text.WriteString("# Device nodes to trigger on-demand module loading.\n")
	for _, m := range t.modules {
		var name, number string
		for _, alias := range m.info.Aliases {
			if node, ok := strings.CutPrefix(alias, "devname:"); ok {
				name = node
			}
			for _, kind := range []string{"char", "block"} {
				var major, minor uint32
				if n, _ := fmt.Sscanf(alias, kind+"-major-%d-%d", &major, &minor); n == 2 {
					number = fmt.Sprintf("%c%d:%d", kind[0], major, minor)
				}
			}
		}
		if name != "" && number != "" && !strings.ContainsAny(name, " \t") {
			fmt.Fprintf(&text, "%s %s %s\n", m.name, name, number)
		}
	}
	return text.String()
}
