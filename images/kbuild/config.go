package kbuild

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed l1.config
var baseFragment string

//go:embed l1-debug.config
var debugFragment string

//go:embed guest.config
var guestFragment string

// fragment returns the lines of configuration that are wanted. Later ones override earlier ones.
func (o Options) fragment() string {
	text := baseFragment
	switch o.Config {
	case LabDebug:
		text += debugFragment
	case Guest:
		text = guestFragment
	}
	return text + o.Fragment
}

const unset = "n"

// parseConfig reads the lines of a kernel's configuration, with n for what is not set.
func parseConfig(text string) (map[string]string, error) {
	settings := make(map[string]string)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutSuffix(line, " is not set"); ok {
			settings[strings.TrimPrefix(name, "# ")] = unset
			continue
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || !strings.HasPrefix(name, "CONFIG_") {
			return nil, fmt.Errorf("kernel configuration: %q is not like CONFIG_NAME=y", line)
		}
		settings[name] = value
	}
	return settings, nil
}

// optionalMark starts a comment that makes the next line optional.
const optionalMark = "# Optional:"

// optional returns the names of the settings that not all kernels know.
func optional(fragment string) map[string]bool {
	names := make(map[string]bool)
	marked := false
	for line := range strings.Lines(fragment) {
		name, _, isSetting := strings.Cut(line, "=")
		if isSetting && marked {
			names[name] = true
		}
		marked = strings.HasPrefix(line, optionalMark)
	}
	return names
}

// checkConfig tells whether the configuration that was made has all of the fragment: a
// line that a kernel doesn't know, or can't have because of another one, is dropped without a word. A kernel need not know
// those that are optional, but one that does must have them.
func checkConfig(fragment, made string) error {
	want, err := parseConfig(fragment)
	if err != nil {
		return err
	}
	got, err := parseConfig(made)
	if err != nil {
		return err
	}
	var lost []string
	mayLack := optional(fragment)
	for name, value := range want {
		if has, ok := got[name]; has != value && (ok || value != unset && !mayLack[name]) {
			lost = append(lost, name+"="+value)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	slices.Sort(lost)
	return fmt.Errorf("this kernel has no %s: it is too old or too new for that (iommufd and VFIO's character devices "+
		"came with 6.2 and 6.6), or something else that it needs is off", strings.Join(lost, ", "))
}

// configure makes the configuration.
func (b *build) configure() error {
	b.progress("configure")
	fragment := filepath.Join(b.dir, "fragment")
	if err := os.WriteFile(fragment, []byte(b.fragment), 0o644); err != nil {
		return err
	}
	defer os.Remove(fragment)
	if err := b.make("KCONFIG_ALLCONFIG="+fragment, "allnoconfig"); err != nil {
		return err
	}
	made, err := os.ReadFile(filepath.Join(b.src, ".config"))
	if err != nil {
		return err
	}
	return checkConfig(b.fragment, string(made))
}
