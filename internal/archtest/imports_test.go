// Package archtest holds the project's structure against its description.
package archtest

import (
	"go/build"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/stile-vmm/stile/"

// rule is one row of the package table in docs/design.md. A trailing /... matches the
// package and everything below it.
type rule struct {
	pkg    string
	allows []string
}

var code = regexp.MustCompile("`([^`]+)`")

// readRules takes the table whose header starts with "| package |".
func readRules(t *testing.T) []rule {
	t.Helper()
	text, err := os.ReadFile("../../docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	var rules []rule
	inTable := false
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		switch {
		case strings.HasPrefix(line, "| package |"):
			inTable = true
		case !inTable || strings.HasPrefix(line, "|---"):
		case len(cells) < 5:
			inTable = false
		default:
			var allows []string
			for _, m := range code.FindAllStringSubmatch(cells[3], -1) {
				allows = append(allows, m[1])
			}
			for _, m := range code.FindAllStringSubmatch(cells[1], -1) {
				rules = append(rules, rule{m[1], allows})
			}
		}
	}
	if len(rules) < 10 {
		t.Fatalf("only %d rows found in docs/design.md's package table", len(rules))
	}
	return rules
}

func matches(pattern, pkg string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return pkg == base || strings.HasPrefix(pkg, base+"/")
	}
	return pattern == pkg
}

// find returns the most specific rule for pkg.
func find(rules []rule, pkg string) (best rule, ok bool) {
	for _, r := range rules {
		if matches(r.pkg, pkg) && (!ok || len(r.pkg) > len(best.pkg)) {
			best, ok = r, true
		}
	}
	return best, ok
}

// TestImports checks every package's imports within the module (those of tests
// excepted) against the table, and that the table has no row for a package that is gone.
func TestImports(t *testing.T) {
	rules := readRules(t)
	used := make(map[string]bool)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() {
			return nil
		}
		if name := d.Name(); name == "testdata" || name != ".." && strings.HasPrefix(name, ".") && len(name) > 2 {
			return filepath.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != "../.." {
			return filepath.SkipDir // another module, which sees what everybody sees
		}
		p, err := build.ImportDir(path, 0)
		if err != nil {
			return nil // no Go files here
		}
		rel, _ := filepath.Rel("../..", path)
		pkg := filepath.ToSlash(rel)
		r, ok := find(rules, pkg)
		if !ok {
			t.Errorf("%s has no row in docs/design.md", pkg)
			return nil
		}
		used[r.pkg] = true
		for _, imp := range p.Imports {
			imp, ok := strings.CutPrefix(imp, module)
			if !ok || matches(r.pkg, imp) {
				continue
			}
			if !slices.ContainsFunc(r.allows, func(a string) bool { return matches(a, imp) }) {
				t.Errorf("%s imports %s, which docs/design.md does not allow", pkg, imp)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if !used[r.pkg] && len(r.allows) > 0 {
			t.Errorf("docs/design.md has a row for %s, which is not in the tree", r.pkg)
		}
	}
}
