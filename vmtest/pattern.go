package vmtest

import (
	"regexp"
	"strings"
)

// guestPattern returns the -run pattern with which a test binary runs just the test of that name, and of its subtests those that
// pattern selects, the pattern by which the test was selected here.
func guestPattern(name, pattern string) string {
	elements := strings.Split(name, "/")
	quoted := make([]string, len(elements))
	for i, e := range elements {
		quoted[i] = "^" + regexp.QuoteMeta(e) + "$"
	}
	exact := strings.Join(quoted, "/")
	var selected []string
	for _, alternative := range splitPattern(pattern, '|') {
		parts := splitPattern(alternative, '/')
		if !selects(parts, elements) {
			continue
		}
		if len(parts) <= len(elements) {
			return exact
		}
		selected = append(selected, exact+"/"+strings.Join(parts[len(elements):], "/"))
	}
	if len(selected) == 0 {
		return exact
	}
	return strings.Join(selected, "|")
}

// selects reports whether the parts of a pattern match the elements of a name, as far as both go.
func selects(parts, elements []string) bool {
	for i := range min(len(parts), len(elements)) {
		if ok, err := regexp.MatchString(parts[i], elements[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// splitPattern splits at sep outside brackets and parentheses, as package testing does.
func splitPattern(pattern string, sep byte) []string {
	var parts []string
	start, brackets, parens := 0, 0, 0
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '[':
			brackets++
		case ']':
			brackets = max(0, brackets-1) // an unmatched one is a literal
		case '(':
			if brackets == 0 {
				parens++
			}
		case ')':
			if brackets == 0 {
				parens--
			}
		case '\\':
			i++
		case sep:
			if brackets == 0 && parens == 0 {
				parts = append(parts, pattern[start:i])
				start = i + 1
			}
		}
	}
	return append(parts, pattern[start:])
}
