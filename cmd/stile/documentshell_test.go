package main

import (
	"encoding/base64"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/doctest"
)

const shellDocument = `<!-- test: host
status (3): sh -c
before (mkdir sub): cd
until (test -e late || ! touch late): echo $var
let (WORD=echo found): echo the WORD
before (false): true
-->
` + "```" + `
$ var=1; sleep 100 &
$ cd sub
$ echo $var ${PWD##*/}
1 sub
$ sh -c 'echo out; echo err >&2; exit 3'
out
err
$ echo the WORD
the found
$ true
$ echo stile: a notice; echo shown
shown
$ echo shown
another
$ false
` + "```\n"

// TestDocumentShell: a document's commands run in one shell, each with a status and an output of its own, and what is not as it is
// written is an error.
func TestDocumentShell(t *testing.T) {
	blocks, err := doctest.Markdown("d.md", shellDocument)
	if err != nil {
		t.Fatal(err)
	}
	commands, err := blocks[0].Commands()
	if err != nil {
		t.Fatal(err)
	}
	var pointers []*doctest.Command
	for i := range commands {
		pointers = append(pointers, &commands[i])
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", shellScript(pointers))
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(commands) {
		t.Fatalf("%d reports of %d commands: %q", len(lines), len(commands), lines)
	}
	const firstWrong, lastRight = 5, 6 // a step before it fails; what is behind lastRight fails, too
	for i, line := range lines {
		var n, status int
		var encoded string
		_, _ = fmt.Sscanf(line, report+"%d %d %s", &n, &status, &encoded) // the output may be empty
		output, err := base64.StdEncoding.DecodeString(encoded)
		if n != i || err != nil {
			t.Errorf("report %q: %v", line, err)
		}
		verdict := verdict(&commands[i], status, string(output))
		if wrong := i == firstWrong || i > lastRight; (verdict != nil) != wrong {
			t.Errorf("%s: %v", commands[i].Text, verdict)
		}
	}
}
