package modprobe

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images/kmod"
)

// unloadAll unloads modules, and what nobody uses then.
func (m modprobe) unloadAll(found []module) error {
	for _, one := range found {
		if err := m.unloadOne(one); err != nil {
			return err
		}
	}
	return nil
}

func (m modprobe) unloadOne(one module) error {
	text, hasCommand := command(m.tree.config.remove, one.name)
	if hasCommand && !m.ignoreCommands {
		m.show("remove %s", text)
		return m.shell(text, one.name)
	}
	switch m.tree.state(one.name) {
	case static:
		return &failure{fmt.Sprintf("Module %s is builtin.", one.name)}
	case absent:
		if m.firstTime {
			return &failure{fmt.Sprintf("Module %s is not in kernel.", one.name)}
		}
		return nil
	}
	before, after := m.tree.config.softdepsOf(one.name)
	m.unloadUnused(after)
	if m.uses(one.name) > 0 {
		return &failure{fmt.Sprintf("Module %s is in use.", one.name)}
	}
	if err := m.delete(one.name); err != nil {
		return fmt.Errorf("could not remove '%s': %w", one.name, err)
	}
	var names []string
	for _, other := range slices.Backward(one.needs) {
		names = append(names, other.name)
	}
	m.unloadUnused(names)
	m.unloadUnused(before)
	return nil
}

// unloadUnused unloads those of the modules that are loaded and not used.
func (m modprobe) unloadUnused(names []string) {
	for _, name := range names {
		name = underscored(name)
		if m.tree.state(name) == live && m.uses(name) == 0 {
			_ = m.delete(name) // it may be in use again
		}
	}
}

func (m modprobe) delete(name string) error {
	m.show("rmmod %s", name)
	if m.dryRun {
		return nil
	}
	return m.kernel.unload(name, unix.O_NONBLOCK)
}

// uses returns how often a module is in use, 0 where that is not known.
func (m modprobe) uses(name string) (n int) {
	text, err := os.ReadFile(m.path("sys/module", name, "refcnt"))
	if err == nil {
		_, _ = fmt.Sscan(string(text), &n)
	}
	return n
}

// printConfig prints the configuration in its own form, and the aliases of modules.
func (m modprobe) printConfig() int {
	out := bufio.NewWriter(m.stdout)
	defer out.Flush()
	c := m.tree.config
	for _, name := range c.blacklist {
		fmt.Fprintf(out, "blacklist %s\n", name)
	}
	for _, part := range []struct {
		word string
		list []pair
	}{{"install", c.install}, {"remove", c.remove}, {"alias", c.aliases}, {"options", c.options}, {"softdep", c.softdeps}} {
		for _, p := range part.list {
			fmt.Fprintf(out, "%s %s %s\n", part.word, p.name, p.text)
		}
	}
	for _, name := range []string{kmod.AliasIndex, kmod.SymbolIndex} {
		x, err := m.tree.index(name)
		if err == nil && x != nil {
			err = x.Walk(func(key string, v kmod.Value) { fmt.Fprintf(out, "alias %s %s\n", key, v.Text) })
		}
		if err != nil {
			m.say("FATAL", "%v", err)
			return 1
		}
	}
	return 0
}

// insmod loads a file, with the parameters behind it.
func (s *system) insmod(args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(s.stderr, "insmod: missing the name of a file")
		return 1
	}
	err := s.kernel.load(args[0], params(args[1:]), 0)
	if err == nil {
		return 0
	}
	text := err.Error()
	if _, statErr := os.Stat(args[0]); statErr == nil && errors.Is(err, unix.ENOENT) {
		text = "Unknown symbol in module"
	}
	fmt.Fprintf(s.stderr, "insmod: ERROR: could not insert module %s: %s\n", args[0], text)
	return 1
}

// rmmod unloads modules.
func (s *system) rmmod(args []string) int {
	flags, status := unix.O_NONBLOCK, 0
	for _, name := range args {
		switch name {
		case "-f", "--force":
			flags |= unix.O_TRUNC
			continue
		case "-v", "--verbose", "-s", "--syslog":
			continue
		}
		if err := s.kernel.unload(kmod.Name(name), flags); err != nil {
			text := err.Error()
			if errors.Is(err, unix.ENOENT) {
				text = "Module is not currently loaded"
			}
			fmt.Fprintf(s.stderr, "rmmod: ERROR: could not remove module %s: %s\n", name, text)
			status = 1
		}
	}
	return status
}

// lsmod prints the modules that are loaded.
func (s *system) lsmod() int {
	text, err := os.ReadFile(s.path("proc/modules"))
	if err != nil {
		fmt.Fprintf(s.stderr, "lsmod: %v\n", err)
		return 1
	}
	fmt.Fprintln(s.stdout, "Module                  Size  Used by")
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			continue
		}
		users := strings.TrimSuffix(fields[3], ",")
		if users == "-" {
			users = ""
		}
		fmt.Fprintln(s.stdout, strings.TrimSpace(fmt.Sprintf("%-19s %8s  %s %s", fields[0], fields[1], fields[2], users)))
	}
	return 0
}
