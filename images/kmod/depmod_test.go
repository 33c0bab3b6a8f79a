package kmod

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stile-vmm/stile/images/kmod/kmodtest"
	"github.com/stile-vmm/stile/internal/testenv"
)

// depmod has kmod's own program index modules.
func depmod(t *testing.T, top, release string) {
	t.Helper()
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	program, err := exec.LookPath("depmod")
	if err != nil {
		testenv.Missing(t, "kmod", err.Error())
	}
	if text, err := exec.Command(program, "-b", top, release).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// sortedLines returns a list's lines, without comments. What comes after the colon in a line of modules.dep is sorted, too.
func sortedLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		line = strings.TrimSpace(line)
		if path, others, ok := strings.Cut(line, ": "); ok && strings.Contains(path, Suffix) {
			fields := strings.Fields(others)
			slices.Sort(fields)
			line = path + ": " + strings.Join(fields, " ")
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

// sameIndexes compares all that depmod wrote with ours.
func sameIndexes(t *testing.T, theirs, ours string) {
	t.Helper()
	for _, name := range []string{"modules.dep", "modules.alias", "modules.symbols", SoftdepList, DevnameList} {
		if diff := cmp.Diff(sortedLines(readText(t, theirs, name)), sortedLines(readText(t, ours, name))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for _, name := range []string{DepIndex, AliasIndex, SymbolIndex, BuiltinIndex, BuiltinAliasIndex} {
		if diff := cmp.Diff(indexLines(t, theirs, name), indexLines(t, ours, name)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if diff := cmp.Diff(order(t, theirs), order(t, ours)); diff != "" {
		t.Errorf("the order of modules: %s", diff)
	}
}

// indexLines returns what is in an index, each once: depmod repeats a value that a module names twice.
func indexLines(t *testing.T, dir, name string) []string {
	t.Helper()
	var lines []string
	err := openIndex(t, dir, name).Walk(func(key string, v Value) {
		lines = append(lines, sortedLines(fmt.Sprintf("%s=%s", key, v.Text))...)
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// order returns the modules in the order of modules.dep.
func order(t *testing.T, dir string) []string {
	t.Helper()
	var paths []string
	for line := range strings.Lines(readText(t, dir, "modules.dep")) {
		path, _, _ := strings.Cut(line, ":")
		paths = append(paths, path)
	}
	return paths
}

// TestIndexesAreDepmods compares the indexes of made-up modules with what depmod makes of them.
func TestIndexesAreDepmods(t *testing.T) {
	const release = "6.12-test"
	theirs, ours := t.TempDir(), t.TempDir()
	place := filepath.Join("lib/modules", release)
	kmodtest.Tree(t, filepath.Join(theirs, place))
	kmodtest.Tree(t, filepath.Join(ours, place))
	// kmod may be built without zlib; and its order of what modules.order does not have is that of the folder.
	for _, top := range []string{theirs, ours} {
		old := filepath.Join(top, place, "kernel/drivers/b.ko.gz")
		if err := os.WriteFile(strings.TrimSuffix(old, ".gz"), kmodtest.Module([]string{"depends=d"}, "b1", "b2", "!d1"), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{old, filepath.Join(top, place, "kernel/drivers/not-listed.ko")} {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	depmod(t, theirs, release)
	if err := WriteIndexes(t.Context(), filepath.Join(ours, place)); err != nil {
		t.Fatal(err)
	}
	sameIndexes(t, filepath.Join(theirs, place), filepath.Join(ours, place))
}

// For tests of another package, which can fetch kernels.
var (
	Depmod      = depmod
	SameIndexes = sameIndexes
)
