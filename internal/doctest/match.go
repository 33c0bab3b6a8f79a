package doctest

import (
	"regexp"
	"strings"
)

// gap stands for what a document leaves out: any text of a line, or, where it is a line, any lines.
const gap = "…"

// seconds are the times in go test's output, which are never the same.
var seconds = regexp.MustCompile(`\\\([0-9]+\\\.[0-9]+s\\\)`)

// columns are the spaces between a table's columns, whose width depends on what is in them.
var columns = regexp.MustCompile(` {2,}`)

// Match reports whether got is the output that a document shows as want.
func Match(want, got string) bool {
	var pattern strings.Builder
	pattern.WriteString(`\A`)
	for line := range strings.Lines(strings.TrimRight(want, "\n") + "\n") {
		if strings.TrimSpace(line) == gap {
			pattern.WriteString(`(?:.*\n)*`)
			continue
		}
		line = regexp.QuoteMeta(strings.TrimRight(line, " \t\n"))
		line = seconds.ReplaceAllString(line, `\([0-9.]+s\)`)
		line = columns.ReplaceAllString(line, ` +`)
		pattern.WriteString(strings.ReplaceAll(line, gap, `.*`) + `[ \t\r]*\n`)
	}
	pattern.WriteString(`\z`)
	return regexp.MustCompile(pattern.String()).MatchString(strings.TrimRight(got, "\n") + "\n")
}

// Without returns output without the lines in which a program says what it does, and which documents leave out: those that begin with
// "NAME: " and are not in want.
func Without(name, want, output string) string {
	var kept strings.Builder
	for line := range strings.Lines(output) {
		if !strings.HasPrefix(line, name+": ") || strings.Contains(want, line) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}
