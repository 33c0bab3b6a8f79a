package modprobe

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stile-vmm/stile/images/kmod"
)

// config is what modprobe.d(5) and the kernel's command line say.
type config struct {
	aliases   []pair // pattern and module
	options   []pair // module and parameters
	blacklist []string
	install   []pair // pattern and command
	remove    []pair
	softdeps  []pair // module and a line like "pre: a post: b"
}

type pair struct{ name, text string }

// maxConfig bounds a file of the configuration, in bytes.
const maxConfig = 4 << 20

// configDirs returns where files *.conf are looked for. Of files of one name the first counts.
func configDirs() []string {
	return []string{"etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d"}
}

// readConfig reads the configuration: what is in files or folders of paths, if any, else the system's; then the command line, and at the
// end what modules say themselves in softdeps, a modules.softdep.
func (s *system) readConfig(paths []string, softdeps string) (*config, error) {
	c := &config{}
	if len(paths) == 0 {
		for _, dir := range configDirs() {
			paths = append(paths, s.path(dir))
		}
	}
	files, err := configFiles(paths)
	if err != nil {
		return nil, err
	}
	for _, path := range append(files, softdeps) {
		if err := c.readFile(path); err != nil {
			return nil, err
		}
	}
	if line, err := os.ReadFile(s.path("proc/cmdline")); err == nil {
		c.parseCmdline(string(line))
	}
	return c, nil
}

// configFiles returns the files at paths, and those *.conf in folders there, in the order of their names.
func configFiles(paths []string) ([]string, error) {
	byName := make(map[string]string)
	for _, path := range paths {
		entries, err := os.ReadDir(path)
		if err != nil {
			if info, statErr := os.Stat(path); statErr == nil && !info.IsDir() {
				byName[filepath.Base(path)] = path
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			continue
		}
		for _, e := range entries {
			if _, ok := byName[e.Name()]; !ok && filepath.Ext(e.Name()) == ".conf" {
				byName[e.Name()] = filepath.Join(path, e.Name())
			}
		}
	}
	names := make([]string, 0, len(byName))
	for name := range byName {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		names[i] = byName[name]
	}
	return names, nil
}

// readFile adds a file. One that is not there is an empty one.
func (c *config) readFile(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (!info.Mode().IsRegular() || info.Size() > maxConfig) {
		return nil // a link to /dev/null is how a file of another folder is switched off
	}
	if err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c.parse(string(text))
	return nil
}

// parse adds the lines of a file. Those that are not known are passed over.
func (c *config) parse(text string) {
	text = strings.ReplaceAll(text, "\\\n", "")
	for line := range strings.Lines(text) {
		word, rest := cutWord(line)
		name, text := cutWord(rest)
		if name == "" || strings.HasPrefix(word, "#") {
			continue
		}
		entry := pair{underscored(name), text}
		switch word {
		case "alias":
			entry.text, _ = cutWord(text)
			entry.text = underscored(entry.text)
			c.aliases = append(c.aliases, entry)
		case "options":
			c.options = append(c.options, entry)
		case "blacklist":
			c.blacklist = append(c.blacklist, entry.name)
		case "install":
			c.install = append(c.install, entry)
		case "remove":
			c.remove = append(c.remove, entry)
		case "softdep":
			c.softdeps = append(c.softdeps, entry)
		}
	}
}

// parseCmdline takes modprobe.blacklist=a,b and MODULE.PARAMETER=VALUE of the kernel's command line.
func (c *config) parseCmdline(line string) {
	quoted := false
	words := strings.FieldsFunc(line, func(r rune) bool {
		quoted = quoted != (r == '"')
		return !quoted && (r == ' ' || r == '\n' || r == '\t')
	})
	for _, word := range words {
		if word == "--" {
			return // the rest is init's
		}
		name, value, _ := strings.Cut(word, "=")
		module, param, ok := strings.Cut(name, ".")
		switch {
		case !ok || module == "" || param == "":
		case module == "modprobe" && param == "blacklist":
			for name := range strings.SplitSeq(value, ",") {
				c.blacklist = append(c.blacklist, underscored(name))
			}
		default:
			_, param, _ := strings.Cut(word, ".")
			c.options = append(c.options, pair{underscored(module), param})
		}
	}
}

// cutWord returns a line's first word, and the rest.
func cutWord(line string) (word, rest string) {
	line = strings.TrimSpace(line)
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		return line[:i], strings.TrimSpace(line[i:])
	}
	return line, ""
}

// underscored is the form in which names are compared.
func underscored(name string) string {
	if n, err := kmod.Normalize(name); err == nil {
		return n
	}
	return name
}

// optionsOf returns the parameters for a module that was asked for by alias.
func (c *config) optionsOf(m module) []string {
	var found []string
	for _, o := range c.options {
		if o.text != "" && (o.name == m.name || m.alias != "" && o.name == underscored(m.alias)) {
			found = append(found, o.text)
		}
	}
	return found
}

// command returns what is to be run for a module, of the first pattern that matches its name.
func command(commands []pair, name string) (string, bool) {
	for _, c := range commands {
		if kmod.Match(c.name, name) {
			return c.text, true
		}
	}
	return "", false
}

// softdepsOf returns what is to be loaded before and after a module, if it is there. The first line counts.
func (c *config) softdepsOf(name string) (before, after []string) {
	for _, d := range c.softdeps {
		if !kmod.Match(d.name, name) {
			continue
		}
		var list *[]string
		for word := range strings.FieldsSeq(d.text) {
			switch {
			case word == "pre:":
				list = &before
			case word == "post:":
				list = &after
			case list != nil:
				*list = append(*list, word)
			}
		}
		break
	}
	return before, after
}
