package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stile-vmm/stile/internal/guest"
)

// TestHelp holds every command to what a person looks for in its help, and every flag to a description.
func TestHelp(t *testing.T) {
	root := newCommand()
	visit(root, func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s: no description", c.CommandPath())
		}
		if !c.Runnable() && c != root {
			t.Errorf("%s: what it does not know is not refused", c.CommandPath())
		}
		if c.Runnable() && !c.HasSubCommands() && c.Example == "" {
			t.Errorf("%s: no example", c.CommandPath())
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s: --%s has no description", c.CommandPath(), f.Name)
			}
			if value, _ := pflag.UnquoteUsage(f); value != strings.ToUpper(value) {
				t.Errorf("%s: --%s takes a %s: what is that?", c.CommandPath(), f.Name, value)
			}
		})
	})
}

// quoted is what a shell takes for a part of one word.
var quoted = regexp.MustCompile(`'[^']*'|\$\([^)]*\)`)

// TestExamples: what --help shows as examples names commands and flags that there are.
func TestExamples(t *testing.T) {
	visit(newCommand(), func(c *cobra.Command) {
		for line := range strings.Lines(quoted.ReplaceAllString(c.Example, "quoted")) {
			for part := range strings.FieldsFuncSeq(line, func(r rune) bool { return strings.ContainsRune("|&;><", r) }) {
				words := strings.Fields(part)
				if len(words) < 2 || words[0] != "stile" {
					continue
				}
				root := newCommand()
				root.InitDefaultCompletionCmd()
				named, args, err := root.Find(words[1:])
				if err == nil && !named.DisableFlagParsing {
					err = named.ParseFlags(args)
				}
				if err != nil && !errors.Is(err, pflag.ErrHelp) || !named.HasParent() {
					t.Errorf("%s: example %q: %v", c.CommandPath(), part, err)
				}
			}
		}
	})
}

// TestComplete: shells get the words of flags that take one of some, and every such word is one that its flag takes.
func TestComplete(t *testing.T) {
	for line, want := range map[string]string{
		"run --on ":               "lab",
		"run --on-reboot ":        "reset",
		"test --mem":              "--memory",
		"lab run --topology ":     "singleton",
		"lab kernel build ":       "debug",
		"run --kernel ":           "host",
		"ctl web ":                "balloon",
		"run --on-device-error w": "warn",
	} {
		c := newCommand()
		var out strings.Builder
		c.SetOut(&out)
		c.SetArgs(append([]string{cobra.ShellCompRequestCmd}, strings.Split(line, " ")...))
		if err := c.Execute(); err != nil || !strings.Contains("\n"+out.String(), "\n"+want) {
			t.Errorf("stile %s: %v, %q", line, err, out.String())
		}
	}
	for _, on := range flagWords()["on"] {
		if err := guest.CheckPlace(on); err != nil {
			t.Error(err)
		}
	}
	for name, list := range flagWords() {
		for _, word := range list {
			f := runFlags{}
			if err := flagSet(&f).Parse([]string{"--" + name, word, "true"}); err != nil {
				t.Error(err)
			}
			f.args = []string{"true"}
			f.apply()
			if err := f.validate(); err != nil {
				t.Errorf("--%s %s: %v", name, word, err)
			}
		}
	}
}

func visit(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		visit(sub, f)
	}
}

// TestManPages makes them twice, because packages are to be reproducible.
func TestManPages(t *testing.T) {
	var pages [2]string
	for i := range pages {
		dir := t.TempDir()
		if status := run([]string{"man", dir}); status != 0 {
			t.Fatalf("stile man: exit status %d", status)
		}
		text, err := os.ReadFile(filepath.Join(dir, "stile-run.1"))
		if err != nil {
			t.Fatal(err)
		}
		pages[i] = string(text)
	}
	if pages[0] != pages[1] {
		t.Error("two runs make different pages")
	}
	for _, want := range []string{".TH \"STILE", "--timeout", "Exit status:"} {
		if !strings.Contains(pages[0], want) {
			t.Errorf("stile-run.1 has no %q", want)
		}
	}
}
