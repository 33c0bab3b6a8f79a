// Package golden checks Go copies of kernel ABI against values that a C program
// prints from the kernel's own headers. Round-trip tests cannot find a wrong
// offset; this does.
//
// The C program prints one "name value" line per fact: "kvm_regs 144" for a size,
// "kvm_regs.rip 128" for an offset, "KVM_RUN 44672" for a number. Its output is
// committed, so that the comparison runs on machines without a compiler; with one,
// the committed file itself is checked too.
package golden

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/testenv"
)

// Facts maps names as C spells them to sizes and offsets in bytes, or to numbers.
type Facts map[string]uint64

// Struct adds the size of v, a struct value, and the offsets of its fields. names
// are the C names of the fields in order, separated by blanks; "-" leaves a field
// out. Blank fields (padding) have no name. A wrong count of names is an error.
func (f Facts) Struct(cname string, v any, names string) error {
	t := reflect.TypeOf(v)
	f[cname] = uint64(t.Size())
	want := strings.Fields(names)
	for i := range t.NumField() {
		field := t.Field(i)
		if field.Name == "_" {
			continue
		}
		if len(want) == 0 {
			return fmt.Errorf("%s: field %s has no C name", cname, field.Name)
		}
		if want[0] != "-" {
			f[cname+"."+want[0]] = uint64(field.Offset)
		}
		want = want[1:]
	}
	if len(want) > 0 {
		return fmt.Errorf("%s: no field for %q", cname, want)
	}
	return nil
}

// Check compares facts with the golden file: both must hold the same names with the
// same values.
func Check(t testing.TB, file string, facts Facts) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := parse(b)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	for _, diff := range compare(facts, want) {
		t.Error(diff)
	}
}

// Program compiles the C file source with cc and compares what it prints with the
// golden file. Without a C compiler the test ends as testenv.Missing has it. What
// the header of this machine is too old to know is left out by the program's #ifdef.
func Program(t testing.TB, source, file string) {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		testenv.Missing(t, "cc", err.Error())
	}
	bin := filepath.Join(t.TempDir(), "facts")
	if out, err := exec.Command(cc, "-Wall", "-Werror", "-o", bin, source).CombinedOutput(); err != nil {
		t.Fatalf("compile %s: %v\n%s", source, err, out)
	}
	printed, err := exec.Command(bin).Output()
	if err != nil {
		t.Fatalf("run %s: %v", source, err)
	}
	got, err := parse(printed)
	if err != nil {
		t.Fatalf("output of %s: %v", source, err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := parse(b)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	for _, diff := range compare(want, got) {
		t.Errorf("%s is not what %s prints: %s", file, source, diff)
	}
}

func parse(b []byte) (Facts, error) {
	facts := Facts{}
	scanner := bufio.NewScanner(bytes.NewReader(b))
	for scanner.Scan() {
		name, value, ok := strings.Cut(scanner.Text(), " ")
		if !ok {
			return nil, fmt.Errorf("line %q: want a name and a value", scanner.Text())
		}
		n, err := strconv.ParseUint(value, 0, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if _, dup := facts[name]; dup {
			return nil, fmt.Errorf("%s stands there twice", name)
		}
		facts[name] = n
	}
	if len(facts) == 0 {
		return nil, errors.New("no facts")
	}
	return facts, scanner.Err()
}

// compare lists how got differs from want, sorted by name.
func compare(got, want Facts) []string {
	var diffs []string
	for name, w := range want {
		g, ok := got[name]
		switch {
		case !ok:
			diffs = append(diffs, fmt.Sprintf("%s: absent, C has %#x", name, w))
		case g != w:
			diffs = append(diffs, fmt.Sprintf("%s: %#x, C has %#x", name, g, w))
		}
	}
	for name, g := range got {
		if _, ok := want[name]; !ok {
			diffs = append(diffs, fmt.Sprintf("%s: %#x, C does not have it", name, g))
		}
	}
	sort.Strings(diffs)
	return diffs
}
