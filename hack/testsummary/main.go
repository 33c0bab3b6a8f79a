// Command testsummary reads the output of go test -json and prints what a person
// wants at the end: failures whole, a line for each package, what was skipped and why, what took longest,
// and the totals.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"sort"
	"strings"
)

// slowest is how many of the slowest tests are named.
const slowest = 12

type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
}

type test struct{ pkg, name string }

func main() {
	output := make(map[test]*strings.Builder)
	counts := make(map[string]int)
	reasons := make(map[string]int)
	var took []event
	scanner := bufio.NewScanner(os.Stdin)
	scanner.Buffer(nil, 16<<20)
	for scanner.Scan() {
		var e event
		if json.Unmarshal(scanner.Bytes(), &e) != nil {
			fmt.Println(scanner.Text())
			continue
		}
		key := test{e.Package, e.Test}
		switch e.Action {
		case "output", "build-output":
			if output[key] == nil {
				output[key] = new(strings.Builder)
			}
			output[key].WriteString(e.Output)
			continue
		case "pass", "fail", "skip":
		default:
			continue
		}
		if e.Action == "fail" {
			fmt.Printf("FAIL %s %s\n%s", e.Package, e.Test, text(output[key]))
		}
		if e.Test == "" {
			fmt.Printf("%-4s %s %.1fs\n", e.Action, e.Package, e.Elapsed)
			continue
		}
		counts[e.Action]++
		if !strings.Contains(e.Test, "/") {
			took = append(took, e)
		}
		if e.Action == "skip" {
			reasons[reason(text(output[key]))]++
		}
	}
	for _, r := range sorted(reasons) {
		fmt.Printf("skipped %d: %s\n", reasons[r], r)
	}
	sort.Slice(took, func(i, j int) bool { return took[i].Elapsed > took[j].Elapsed })
	for _, e := range took[:min(slowest, len(took))] {
		fmt.Printf("took %.0f s: %s %s\n", e.Elapsed, e.Package, e.Test)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", counts["pass"], counts["fail"], counts["skip"])
}

func text(b *strings.Builder) string {
	if b == nil {
		return ""
	}
	return b.String()
}

// logged is a line that a test has logged.
var logged = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)`)

// skipped is a script's own command.
var skipped = regexp.MustCompile(`^\s+> \[.*\] skip '(.*)'`)

// reason finds the line that testenv.Missing wrote, or a script's skip, else what the test said last.
func reason(out string) string {
	last := "no reason given"
	for line := range strings.Lines(out) {
		if _, after, ok := strings.Cut(line, "missing "); ok {
			return strings.TrimSpace(after)
		}
		if m := skipped.FindStringSubmatch(line); m != nil {
			return m[1]
		}
		if m := logged.FindStringSubmatch(line); m != nil {
			last = m[1]
		}
	}
	return last
}

func sorted(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
