package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/stile-vmm/stile/internal/doctest"
)

// checkout is the repository's top folder.
const checkout = "../.."

// TestDocuments tries the code blocks of every document, in order and in a fresh folder for each document, as the comments above the
// blocks say. Each command line of stile, also one that does not run here, has flags that there are.
func TestDocuments(t *testing.T) {
	for _, path := range documents(t) {
		t.Run(path, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(checkout, path))
			if err != nil {
				t.Fatal(err)
			}
			checkInline(t, path, string(text))
			blocks, err := doctest.Markdown(path, string(text))
			if err != nil {
				t.Fatal(err)
			}
			d := &documentRun{path: path}
			for i := range blocks {
				d.add(t, &blocks[i])
			}
			d.run(t)
		})
	}
}

// TestPackageComments compiles the Go code in the comments of packages and what they declare. Tables are listed here.
func TestPackageComments(t *testing.T) {
	tables := map[string]bool{
		"devices/virtio/doc.go": true, "internal/agentproto/lab.go": true, "internal/layout/layout.go": true, "internal/doctest/doc.go": true,
		"lab/store.go": true, "vfio/lab_test.go": true,
	}
	seen := make(map[string]bool)
	d := &documentRun{path: "package comments"}
	for _, path := range tracked(t, "*.go") {
		text, err := os.ReadFile(filepath.Join(checkout, path))
		if err != nil {
			t.Fatal(err)
		}
		blocks, err := doctest.Comments(path, string(text))
		if err != nil {
			t.Error(err)
		}
		for i := range blocks {
			seen[path] = true
			if !tables[path] {
				d.addGo(t, &blocks[i], doctest.Mark{Kind: doctest.Guest})
			}
		}
	}
	for path := range tables {
		if !seen[path] {
			t.Errorf("%s has no table any more", path)
		}
	}
	d.run(t)
}

func documents(t *testing.T) []string { return tracked(t, "*.md") }

// tracked returns the repository's files whose names match.
func tracked(t *testing.T, pattern string) []string {
	t.Helper()
	var found []string
	for path := range strings.Lines(tool(t, 0, "git", "-C", checkout, "ls-files", "--cached", "--others", "--exclude-standard", "--", pattern)) {
		path = strings.TrimSpace(path)
		if _, err := os.Stat(filepath.Join(checkout, path)); err == nil && !strings.Contains(path, "/testdata/") {
			found = append(found, path)
		}
	}
	if len(found) < 10 {
		t.Fatalf("only %q match %s", found, pattern)
	}
	return found
}

// inline is a command of stile within a sentence.
var inline = regexp.MustCompile("`(stile [^`]+)`")

// checkInline looks at the commands within sentences, which may be incomplete: their names and flags are there.
func checkInline(t *testing.T, path, text string) {
	t.Helper()
	prose := regexp.MustCompile("(?ms)^```.*?^```").ReplaceAllString(text, "")
	for _, m := range inline.FindAllStringSubmatch(prose, -1) {
		for _, words := range doctest.Simple(m[1], "stile") {
			var value *pflag.InvalidValueError
			err := checkWords(words)
			placeholder := errors.As(err, &value) && value.GetValue() == strings.ToUpper(value.GetValue())
			if err != nil && !placeholder && !errors.As(err, new(*pflag.ValueRequiredError)) {
				t.Errorf("%s: `%s`: %v", path, m[1], err)
			}
		}
	}
}

// checkWords parses a command line of stile, and runs nothing.
func checkWords(words []string) error {
	if len(words) < 2 || words[0] != "stile" {
		return nil
	}
	root := newCommand()
	root.InitDefaultHelpCmd()
	root.InitDefaultVersionFlag()
	root.InitDefaultCompletionCmd()
	c, args, err := root.Find(words[1:])
	switch {
	case err != nil:
		return err
	case c == root && !strings.HasPrefix(words[1], "-"):
		return fmt.Errorf("unknown command %q", words[1])
	case c.DisableFlagParsing:
		own, rest := splitTestArgs(c.Flags(), args)
		return errors.Join(c.Flags().Parse(own), misspelt(c.Flags(), rest), misplaced(c.Flags(), newRunCommand().Flags(), rest))
	}
	if err := c.ParseFlags(args); err != nil && !errors.Is(err, pflag.ErrHelp) {
		return err
	}
	return nil
}

// TestCheckWords: the flags are those of the command line's own parser.
func TestCheckWords(t *testing.T) {
	for line, good := range map[string]bool{
		"stile run --disk a,cow -m 1G -- x --y": true, "stile test --memory 1G -v -run X .": true, "stile lab run --topology bridge -- ls": true,
		"stile --version": true, "stile help run": true, "ls --nothing": true, "stile": true,
		"stile runs": false, "stile run --dsk a": false, "stile run -m lots": false, "stile test --no-such-memory 1 .": true, // go test's
		"stile test . --memory 1G": false, "stile lab run --topologies bridge": false,
	} {
		if err := checkWords(strings.Fields(line)); (err == nil) != good {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// checkShell has a shell read a command without running it.
func checkShell(t *testing.T, where, command string) {
	t.Helper()
	cmd := exec.Command("bash", "-n")
	cmd.Stdin = strings.NewReader(command + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %s: %v: %s", where, command, err, out)
	}
}
