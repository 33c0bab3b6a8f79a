package doctest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

const document = "# Title\n\n<!-- test: guest\nskip (it needs the internet): stile two\nstatus (3): stile one\n-->\n\n```\n" +
	"$ stile one \\\n  more\nout\nput\n$ stile two # a comment\n```\n\ntext\n\n```go\nx := 1\n```\n\n<!-- test: host -->\n```\na\n\n# only a comment\n```\n"

func TestMarkdown(t *testing.T) {
	blocks, err := Markdown("d.md", document)
	if err != nil || len(blocks) != 3 {
		t.Fatalf("%v, %v", blocks, err)
	}
	commands, err := blocks[0].Commands()
	if err != nil || len(commands) != 2 {
		t.Fatalf("%v, %v", commands, err)
	}
	one, two := commands[0], commands[1]
	if one.Text != "stile one \\\n  more" || one.Output != "out\nput\n" || one.Kind != Guest || !slices.Equal(one.Has(Status), []string{"3"}) || one.Line != 9 {
		t.Errorf("%+v", one)
	}
	if two.Kind != Skip || two.Argument != "it needs the internet" || two.Output != "" {
		t.Errorf("%+v", two)
	}
	if kind, err := blocks[1].Kind(); err != nil || kind.Kind != Go {
		t.Errorf("%v, %v", kind, err)
	}
	if commands, err := blocks[2].Commands(); err != nil || len(commands) != 2 {
		t.Errorf("%v, %v", commands, err)
	}
}

// TestFaults: what a document gets wrong is said, a block without a comment above all.
func TestFaults(t *testing.T) {
	for text, want := range map[string]string{
		"```\nls\n```\n":                                     "nothing says",
		"<!-- test: guess -->\n```\nls\n```\n":               "unknown kind",
		"<!-- test: skip -->\n```\nls\n```\n":                "takes an (ARGUMENT)",
		"<!-- test: lab plain -->\n```\nls\n```\n":           "expected (ARGUMENT)",
		"<!-- test: host\nsoak\n-->\n```\nls\n```\n":         "expected KIND: TEXT",
		"<!-- test: host\nsoak: rm\n-->\n```\nls\n```\n":     "begins with \"rm\"",
		"<!-- test: host\nfile (x): ls\n-->\n```\nls\n```\n": "unknown kind",
		"<!-- test: status (1) -->\n```\nls\n```\n":          "unknown kind",
		"<!-- test: host -->\ntext\n":                        "no code block",
		"<!-- test: host\n":                                  "no end",
		"```\nls\n":                                          "no end",
	} {
		blocks, err := Markdown("d.md", text)
		for i := range blocks {
			if err == nil {
				_, err = blocks[i].Commands()
			}
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		want, got string
		is        bool
	}{
		{"a\n", "a\n", true}, {"a", "a  \n\n", true}, {"a\n", "a\nb\n", false}, {"a\n", "", false},
		{"Linux … x86_64\n", "Linux 7 x86_64\n", true}, {"a…\n", "ab\n", true}, {"a…\n", "a\nb\n", false},
		{"a\n…\nd\n", "a\nb\nc\nd\n", true}, {"a\n…\nd\n", "a\nd\n", true}, {"…\nd\n", "a\n", false},
		{"--- PASS: T (0.09s)\n", "--- PASS: T (12.30s)\n", true}, {"a.c\n", "abc\n", false},
		{"ID   AGE\nweb  …\n", "ID     AGE\nweb    4m\n", true}, {"a b\n", "a  b\n", false},
	} {
		if got := Match(test.want, test.got); got != test.is {
			t.Errorf("%q of %q: %v", test.got, test.want, got)
		}
	}
	if got := Without("stile", "stile: b\n", "stile: a\nx\nstile: b\n"); got != "x\nstile: b\n" {
		t.Errorf("%q", got)
	}
}

func TestSimple(t *testing.T) {
	for command, want := range map[string]string{
		`stile run -- uname -a`: `[[stile run -- uname -a]]`,
		`echo hi | stile run -- sh -c 'cat; echo err >&2; exit 7'; echo $?`: `[[echo hi] [stile run -- sh -c cat; echo err >&2; exit 7] [echo $?]]`,
		`stile ps; stile logs # stile nothing`:                              `[[stile ps] [stile logs]]`,
		`A=1 STILE_QEMU=$(hack/qemu sid) stile lab run 2>x <y`:              `[[stile lab run]]`,
		`go test -exec 'stile test-exec --cpus 2' ./...`:                    `[[stile test-exec --cpus 2] [go test -exec stile test-exec --cpus 2 ./...]]`,
		`eval "$(stile completion bash)"`:                                   `[[stile completion bash] [$()] [eval $(stile completion bash)]]`,
		"stile a \\\n b": `[[stile a 
 b]]`,
		`'`: `[[]]`, `$(`: `[[$()]]`, `(a)&&{ b; }`: `[[a] [b]]`,
	} {
		if got := fmt.Sprint(Simple(command, "stile")); got != want {
			t.Errorf("%q: %s, want %s", command, got, want)
		}
	}
}

func TestGoFile(t *testing.T) {
	for snippet, want := range map[string]string{
		"func TestA(t *testing.T) {\n\t…\n}\n":             "[TestA]",
		"out, err := vm.Command(ctx, \"x\").Output()\n":    "[]",
		"package x\nfunc TestMain() {}\nfunc TestB() {}\n": "[TestB]",
	} {
		file, tests, err := GoFile(snippet)
		if err != nil || fmt.Sprint(tests) != want {
			t.Errorf("%q: %v, %v", file, tests, err)
		}
	}
	if file, _, _ := GoFile("vm := vmtest.Start(t, vmtest.Config{})\nos := 1\n_ = os\n"); !strings.Contains(file, `"github.com/stile-vmm/stile/vmtest"`) || strings.Contains(file, `"os"`) {
		t.Error(file)
	}
	if _, _, err := GoFile("0000  640 KiB  RAM"); err == nil {
		t.Error("a table is Go")
	}
}

func TestComments(t *testing.T) {
	blocks, err := Comments("x.go", "// Package x is:\n//\n//\tone\npackage x\n\n// F does:\n//\n//\ttwo\nfunc F() {}\n")
	if err != nil || len(blocks) != 2 || blocks[0].Text != "one\n" || blocks[1].Line != 6 {
		t.Errorf("%v, %v", blocks, err)
	}
}

func FuzzDocument(f *testing.F) {
	f.Add(document)
	f.Fuzz(func(t *testing.T, text string) {
		blocks, _ := Markdown("d.md", text)
		for i := range blocks {
			commands, _ := blocks[i].Commands()
			for _, c := range commands {
				Simple(c.Text, "stile")
			}
		}
		Simple(text, "stile")
		Match(text, text)
		_, _, _ = GoFile(text)
	})
}
