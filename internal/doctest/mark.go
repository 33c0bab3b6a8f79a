package doctest

import (
	"fmt"
	"slices"
	"strings"
)

// Kind is a way to try a block, or one of its commands.
type Kind string

// The kinds of blocks and commands.
const (
	Host  Kind = "host"  // the command runs on this machine, and boots nothing
	Guest Kind = "guest" // the command, or the Go test, boots guests
	Lab   Kind = "lab"   // (TOPOLOGY) the command runs as root of a nested host, in which nothing can be harmed
	Soak  Kind = "soak"  // as Guest, or with (TOPOLOGY) as Lab, but only in make soak
	Skip  Kind = "skip"  // (WHY) the command does not run; its words are checked all the same
)

// The kinds of blocks without commands.
const (
	File   Kind = "file"   // (NAME) the block is a file for the document's next commands
	Output Kind = "output" // what the command before the block prints
	Text   Kind = "text"   // (WHY) nothing to try
	Go     Kind = "go"     // Go code that compiles; what a block of that language is without a mark
)

// What else a mark can say of a command, beside its kind.
const (
	Status Kind = "status" // (N) its exit status is N and not 0
	Needs  Kind = "needs"  // (PROGRAM) it is left out where the host has no such program
	Before Kind = "before" // (COMMAND) this has to run before, and to succeed
	Until  Kind = "until"  // (COMMAND) this is tried until it succeeds, before
	Let    Kind = "let"    // (WORD=COMMAND) WORD stands for what COMMAND prints
)

var (
	runs      = []Kind{Host, Guest, Lab, Soak, Skip}
	blocks    = []Kind{File, Output, Text, Go}
	modifiers = []Kind{Status, Needs, Before, Until, Let}
	arguments = map[Kind]bool{Lab: true, Skip: true, File: true, Text: true, Status: true, Needs: true, Before: true, Until: true, Let: true}
)

// Mark is a line of a comment.
type Mark struct {
	Kind     Kind
	Argument string // what stands in parentheses
	Prefix   string // of the commands that it is for; "" for the whole block
}

// parseMarks reads a comment's text, behind "test:".
func parseMarks(text string) ([]Mark, error) {
	var marks []Mark
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		m, err := parseMark(strings.TrimSpace(line), i > 0)
		if err != nil {
			return nil, fmt.Errorf("mark %q: %w", line, err)
		}
		marks = append(marks, m)
	}
	return marks, nil
}

func parseMark(line string, hasPrefix bool) (Mark, error) {
	var m Mark
	if hasPrefix {
		i := strings.Index(line, ": ")
		if at := strings.Index(line, "): "); strings.Contains(line[:max(i, 0)], "(") {
			i = at + 1
		}
		if i <= 0 {
			return m, fmt.Errorf("expected KIND: TEXT or KIND (ARGUMENT): TEXT, where a command begins with TEXT")
		}
		line, m.Prefix = line[:i], strings.TrimSpace(line[i+2:])
	}
	kind, rest, found := strings.Cut(line, " ")
	m.Kind = Kind(kind)
	if found {
		if !strings.HasPrefix(rest, "(") || !strings.HasSuffix(rest, ")") {
			return m, fmt.Errorf("expected (ARGUMENT) behind %s", kind)
		}
		m.Argument = rest[1 : len(rest)-1]
	}
	switch known := slices.Contains(runs, m.Kind) || slices.Contains(modifiers, m.Kind) && hasPrefix || slices.Contains(blocks, m.Kind) && !hasPrefix; {
	case !known:
		return m, fmt.Errorf("unknown kind %q here", kind)
	case arguments[m.Kind] && m.Argument == "":
		return m, fmt.Errorf("%s takes an (ARGUMENT)", kind)
	}
	return m, nil
}
