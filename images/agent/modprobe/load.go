package modprobe

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images/kmod"
)

// modprobe is one call of the program.
type modprobe struct {
	*system
	*options
	tree *tree
}

// modprobe is the program.
func (s *system) modprobe(args []string) int {
	o, err := parseOptions(append(strings.Fields(environment(s.environ, "MODPROBE_OPTIONS")), args...))
	if err == nil && len(o.rest) == 0 && !o.showConfig && !o.version && !o.help {
		err = errors.New("missing parameters; see modprobe --help")
	}
	if err != nil {
		fmt.Fprintf(s.stderr, "modprobe: %v\n", err)
		return 1
	}
	if o.help {
		fmt.Fprint(s.stdout, usage)
		return 0
	}
	if o.version {
		fmt.Fprintln(s.stdout, "stile's modprobe")
		return 0
	}
	m := modprobe{system: s, options: o}
	release := s.release
	if o.release != "" {
		release = o.release
	}
	dir := s.path("lib/modules", release)
	if o.root != "" {
		dir = filepath.Join(o.root, "lib/modules", release)
	}
	config, err := s.readConfig(o.configs, filepath.Join(dir, kmod.SoftdepList))
	if err != nil {
		m.say("FATAL", "%v", err)
		return 1
	}
	m.tree = openTree(dir, s.path("sys/module"), config)
	defer m.tree.close()
	return m.main()
}

func (m modprobe) main() int {
	names := m.rest
	switch {
	case m.showConfig:
		return m.printConfig()
	case !m.all && !m.remove:
		names = m.rest[:1]
	}
	status := 0
	for _, name := range names {
		found, err := m.find(name)
		if err == nil && m.remove {
			err = m.unloadAll(found)
		} else if err == nil {
			err = m.loadAll(found)
		}
		if err != nil {
			m.say(m.severity(), "%v", err)
			status = 1
		}
	}
	return status
}

// severity is what kmod's program calls an error: with several modules one that fails is no end.
func (m modprobe) severity() string {
	if m.all {
		return "WARNING"
	}
	return "FATAL"
}

func (m modprobe) say(severity, format string, args ...any) {
	if !m.quiet {
		fmt.Fprintf(m.stderr, "modprobe: %s: %s\n", severity, fmt.Sprintf(format, args...))
	}
}

// show prints what is done.
func (m modprobe) show(format string, args ...any) {
	if m.showDepends || m.verbose > 0 {
		fmt.Fprintf(m.stdout, format+"\n", args...)
	}
}

func (m modprobe) find(name string) ([]module, error) {
	if strings.HasPrefix(name, "/") || strings.HasPrefix(name, "./") {
		one, err := m.tree.file(name)
		return []module{one}, err
	}
	found, err := m.tree.lookup(name)
	if err == nil && len(found) == 0 {
		err = &failure{fmt.Sprintf("Module %s not found in directory %s", name, m.tree.dir)}
	}
	return found, err
}

// loadAll loads all modules that a name stands for. The last error counts.
func (m modprobe) loadAll(found []module) error {
	var failed error
	for _, one := range found {
		if m.resolve {
			fmt.Fprintln(m.stdout, one.name)
			continue
		}
		failed = m.loadOne(one)
	}
	return failed
}

func (m modprobe) loadOne(target module) error {
	if (target.alias != "" || m.blacklist) && slices.Contains(m.tree.config.blacklist, target.name) {
		return nil
	}
	if !m.showDepends && m.loaded(target) {
		if m.firstTime {
			return insertError(target.name, unix.EEXIST)
		}
		return nil
	}
	list := plan{tree: m.tree, seen: make(map[string]bool)}
	if err := list.add(target, true); err != nil {
		return err
	}
	for _, s := range list.steps {
		if err := m.insert(s.module, s.module.name == target.name); err != nil && s.required {
			return insertError(s.module.name, err)
		}
	}
	return nil
}

// loaded reports whether nothing is to be done for a module.
func (m modprobe) loaded(one module) bool {
	s := m.tree.state(one.name)
	return s == live || s == static && one.path == ""
}

// insert loads one module, without what it needs. named tells that it is the one that was asked for.
func (m modprobe) insert(one module, named bool) error {
	if !m.showDepends && m.loaded(one) {
		return nil
	}
	options := m.tree.config.optionsOf(one)
	if named && !m.all && len(m.rest) > 1 {
		options = append(options, params(m.rest[1:]))
	}
	words := strings.Join(options, " ")
	if text, ok := command(m.tree.config.install, one.name); ok && !(named && m.ignoreCommands) {
		m.show("install %s %s", text, words)
		return m.shell(strings.ReplaceAll(text, "$CMDLINE_OPTS", words), one.name)
	}
	switch {
	case one.builtin:
		m.show("builtin %s", one.name)
		return nil
	case one.path == "" && m.tree.state(one.name) != absent:
		return nil
	case one.path == "":
		return fmt.Errorf("no such module in %s", m.tree.dir)
	}
	m.show("insmod %s %s", one.path, words)
	if m.dryRun {
		return nil
	}
	if err := m.kernel.load(one.path, words, m.force); !errors.Is(err, unix.EEXIST) { // else somebody was faster
		return err
	}
	return nil
}

// shell runs a command of the configuration.
func (m modprobe) shell(text, name string) error {
	if m.dryRun {
		return nil
	}
	if err := m.kernel.shell(text, append(slices.Clone(m.environ), "MODPROBE_MODULE="+name)); err != nil {
		return fmt.Errorf("the command %q for module %s: %w", text, name, err)
	}
	return nil
}

// failure is an error in the words of kmod's program, which scripts look for.
type failure struct{ text string }

func (f *failure) Error() string { return f.text }

// insertError explains why the kernel did not take a module.
func insertError(name string, err error) error {
	switch {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("could not insert '%s': Module already in kernel", name)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("could not insert '%s': Unknown symbol in module, or unknown parameter (see dmesg)", name)
	}
	return fmt.Errorf("could not insert '%s': %w", name, err)
}

// plan is the modules to load, in order.
type plan struct {
	tree  *tree
	seen  map[string]bool
	steps []step
}

type step struct {
	module   module
	required bool
}

// maxPlan bounds what a configuration can ask for.
const maxPlan = 1024

// add adds a module with what it needs, and what they and it had better have.
func (p *plan) add(target module, required bool) error {
	for _, m := range append(slices.Clone(target.needs), target) {
		if p.seen[m.name] || len(p.steps) >= maxPlan {
			continue
		}
		p.seen[m.name] = true
		before, after := p.tree.config.softdepsOf(m.name)
		if err := p.addSoft(before); err != nil {
			return err
		}
		p.steps = append(p.steps, step{m, required})
		if err := p.addSoft(after); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) addSoft(names []string) error {
	for _, name := range names {
		found, err := p.tree.lookup(name)
		if err != nil {
			return err
		}
		for _, m := range found {
			if err := p.add(m, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// environment returns a variable's value.
func environment(environ []string, name string) string {
	for _, kv := range slices.Backward(environ) {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value
		}
	}
	return ""
}
