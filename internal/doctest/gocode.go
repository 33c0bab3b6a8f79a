package doctest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// packages are those that snippets use without saying so, and the paths that their names stand for.
var packages = map[string]string{
	"vmtest": "github.com/stile-vmm/stile/vmtest", "unix": "golang.org/x/sys/unix",
	"bytes": "bytes", "context": "context", "errors": "errors", "exec": "os/exec", "filepath": "path/filepath", "fmt": "fmt", "fs": "io/fs", "io": "io",
	"log": "log", "net": "net", "os": "os", "strings": "strings", "syscall": "syscall", "testing": "testing", "time": "time",
}

// Imports are the paths of all packages that GoFile may import.
func Imports() []string { return slices.Sorted(maps.Values(packages)) }

// fragment wraps statements. What they use without making it is what a test has.
const fragment = "func _(t *testing.T, ctx context.Context) {\n"

// GoFile makes a source file of a snippet: a whole file, declarations or statements. The gap, "…", stands for nothing. tests are the
// names of its test functions.
func GoFile(snippet string) (file string, tests []string, err error) {
	body := strings.ReplaceAll(snippet, gap, "")
	if strings.HasPrefix(body, "package ") || strings.Contains(body, "\npackage ") {
		file = body
	} else if _, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+body, parser.SkipObjectResolution); err == nil {
		file = imports(body) + body
	} else if wrapped := fragment + body + "}\n"; parses(wrapped) {
		file = imports(wrapped) + wrapped
	} else {
		return "", nil, fmt.Errorf("neither declarations nor statements: %w", err)
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), "", file, 0)
	if err != nil {
		return "", nil, err
	}
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Test") && f.Name.Name != "TestMain" {
			tests = append(tests, f.Name.Name)
		}
	}
	return file, tests, nil
}

func parses(body string) bool {
	_, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+body, parser.SkipObjectResolution)
	return err == nil
}

// imports returns a package clause and the imports that body needs.
func imports(body string) string {
	f, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+body, 0)
	if err != nil {
		return "package p\n"
	}
	used := make(map[string]bool)
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := s.X.(*ast.Ident); ok && x.Obj == nil && packages[x.Name] != "" {
			used[packages[x.Name]] = true
		}
		return true
	})
	var b strings.Builder
	b.WriteString("package p\n")
	for _, path := range slices.Sorted(maps.Keys(used)) {
		b.WriteString("import " + strconv.Quote(path) + "\n")
	}
	return b.String()
}
