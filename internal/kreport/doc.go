// Package kreport finds what a Linux kernel reports of its own faults in the text that it logs: panics, oopses,
// warnings, what its sanitizers and lock checkers find. The text comes from a guest and is not trusted: what is kept of
// it is bounded, and control characters are replaced.
package kreport
