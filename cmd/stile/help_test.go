package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s: --%s has no description", c.CommandPath(), f.Name)
			}
		})
	})
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
