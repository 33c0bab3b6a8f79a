package kmod

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Lists that a kernel's build leaves beside its modules.
const (
	// OrderList names the modules in the order in which the kernel would have them if they were built in.
	OrderList = "modules.order"
	// BuiltinList names what is built in as files, BuiltinInfo has their .modinfo sections with the modules' names before the keys.
	BuiltinList = "modules.builtin"
	BuiltinInfo = "modules.builtin.modinfo"
)

// readOptional reads a file that need not be there.
func readOptional(dir, name string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

// parseOrder returns the place of each module that modules.order names, by its path below kernel/ without a suffix.
func parseOrder(text string) map[string]int {
	places := make(map[string]int)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if _, again := places[orderKey(line)]; !again && line != "" {
			places[orderKey(line)] = len(places)
		}
	}
	return places
}

// orderKey is what a line of modules.order and a module's path have in common. Lines name a module or its object, and in a build's own
// folder they start without kernel/.
func orderKey(name string) string {
	name = strings.TrimPrefix(name, "kernel/")
	base := path.Base(name)
	stem, _, found := strings.Cut(base, Suffix)
	if !found {
		stem = strings.TrimSuffix(base, ".o")
	}
	return path.Join(path.Dir(name), stem)
}

// parseBuiltin returns the names in modules.builtin.
func parseBuiltin(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			names = append(names, Name(line))
		}
	}
	return names
}

// builtinAlias is an alias of what is built in.
type builtinAlias struct{ module, alias string }

// parseBuiltinInfo returns the aliases in modules.builtin.modinfo, of entries like "fuse.alias=fs-fuse".
func parseBuiltinInfo(text []byte) []builtinAlias {
	var aliases []builtinAlias
	for entry := range bytes.SplitSeq(text, []byte{0}) {
		name, value, _ := strings.Cut(string(entry), "=")
		module, key, _ := strings.Cut(name, ".")
		if key == "alias" && len(value) <= maxText {
			aliases = append(aliases, builtinAlias{Name(module), value})
		}
	}
	return aliases
}
