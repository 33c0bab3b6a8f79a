// Package doctest finds the code blocks of documents, and how each of them is tried.
//
// In Markdown a comment above a block's fence says so, which no reader sees:
//
//	<!-- test: guest
//	soak: stile run -k debian:6.12
//	skip (a placeholder): stile ctl ID
//	-->
//
// The first line is for the whole block, the others for its commands that begin with a text, and each of these must
// find one. Kind has the words.
package doctest
