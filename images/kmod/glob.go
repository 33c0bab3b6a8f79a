package kmod

import (
	"errors"
	"strings"
)

// Normalize makes the form of an alias that indexes have: with _ for -, but for what is between brackets.
func Normalize(alias string) (string, error) {
	var b strings.Builder
	open := false
	for i := range len(alias) {
		c := alias[i]
		switch {
		case c == '[' && !open, c == ']' && open:
			open = !open
		case c == ']':
			return "", errors.New("a ] without a [: " + alias)
		case c == '-' && !open:
			c = '_'
		}
		b.WriteByte(c)
	}
	if open {
		return "", errors.New("a [ without a ]: " + alias)
	}
	return b.String(), nil
}

// Match reports whether a name is one of a pattern's, as fnmatch(3) without flags has it: *, ?, [a-z], [!a-z] and \ before a character.
func Match(pattern, name string) bool {
	p, n := 0, 0
	star, after := -1, 0 // the last *, and up to where it may match
	for n < len(name) || p < len(pattern) {
		if p < len(pattern) && pattern[p] == '*' {
			star, after = p, n
			p++
			continue
		}
		if n < len(name) && p < len(pattern) {
			if size, ok := matchOne(pattern[p:], name[n]); ok {
				p += size
				n++
				continue
			}
		}
		if star < 0 || after >= len(name) {
			return false
		}
		after++
		p, n = star+1, after
	}
	return true
}

// matchOne matches a character with what a pattern starts with, and returns how long that is.
func matchOne(pattern string, c byte) (size int, ok bool) {
	switch pattern[0] {
	case '?':
		return 1, true
	case '[':
		if size, ok := matchSet(pattern, c); size > 0 {
			return size, ok
		}
	case '\\':
		if len(pattern) > 1 {
			return 2, pattern[1] == c
		}
	}
	return 1, pattern[0] == c
}

// matchSet matches a character with the set that a pattern starts with. Without a ] there is no set, and size is 0.
func matchSet(pattern string, c byte) (size int, ok bool) {
	i, not := 1, false
	if i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^') {
		not = true
		i++
	}
	for first := i; i < len(pattern); i++ {
		if pattern[i] == ']' && i > first {
			return i + 1, ok != not
		}
		low, high := pattern[i], pattern[i]
		if i+2 < len(pattern) && pattern[i+1] == '-' && pattern[i+2] != ']' {
			high = pattern[i+2]
			i += 2
		}
		ok = ok || low <= c && c <= high
	}
	return 0, false
}
