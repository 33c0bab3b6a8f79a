package main

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/stile-vmm/stile/internal/doctest"
)

// exports returns the paths of compiled packages, by their import paths: all that snippets may use.
var exports = sync.OnceValues(func() (map[string]string, error) {
	cmd := exec.Command("go", append([]string{"list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}"}, doctest.Imports()...)...)
	cmd.Dir, cmd.Env = checkout, append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	found := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		if path, file, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			found[path] = file
		}
	}
	return found, nil
})

// compileSnippet checks the types of a source file. What is not used is no fault of a snippet.
func compileSnippet(t *testing.T, source string) error {
	t.Helper()
	compiled, err := exports()
	if err != nil {
		t.Fatal(err)
	}
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, "snippet.go", source, 0)
	if err != nil {
		return err
	}
	var first error
	config := types.Config{
		Importer: importer.ForCompiler(files, "gc", func(path string) (io.ReadCloser, error) { return os.Open(compiled[path]) }),
		Error: func(err error) {
			if e, ok := err.(types.Error); first == nil && (!ok || !e.Soft) {
				first = err
			}
		},
	}
	_, _ = config.Check("p", files, []*ast.File{f}, nil) // first has the error that counts
	return first
}

// TestCompileSnippet: a snippet that calls what there is not is refused.
func TestCompileSnippet(t *testing.T) {
	for snippet, good := range map[string]bool{
		"vm := vmtest.Start(t, vmtest.Config{Memory: 256 << 20})\nout, err := vm.Command(ctx, \"x\").Output()\n": true,
		"vm := vmtest.Start(t, vmtest.Config{NoSuchField: 1})\n":                                                 false,
		"var c vmtest.Config\nc.Run()\n":                                                                         false,
	} {
		file, _, err := doctest.GoFile(snippet)
		if err != nil {
			t.Fatal(err)
		}
		if err := compileSnippet(t, file); (err == nil) != good {
			t.Errorf("%s: %v", snippet, err)
		}
	}
}
