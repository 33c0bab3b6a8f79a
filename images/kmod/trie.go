package kmod

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
)

// The format of the files *.bin, which are radix trees, with integers of big endian (libkmod/libkmod-index.c). A header of the two magic
// numbers and the root's reference is followed by nodes. A reference is an offset in the file, with flags that say which parts the node
// has, in this order:
//
//   - flagPrefix: a string that ends in NUL, which all keys below have in common;
//   - flagChildren: the first and the last character that go on from here, then a reference for each from the one to the other, 0 for none;
//   - flagValues: a count, then for each value its priority and a string that ends in NUL.
const (
	indexMagic   = 0xB007F457
	indexVersion = 0x00020001
	headerSize   = 12

	flagPrefix   = 0x80000000
	flagValues   = 0x40000000
	flagChildren = 0x20000000
	maskOffset   = 0x0FFFFFFF

	// maxKey is the greatest character of a key.
	maxKey = 127
)

// Value is one of those that belong to a key. Lower priorities come first.
type Value struct {
	Priority uint32
	Text     string
}

// entry is a key with its values.
type entry struct {
	key    string
	values []Value
}

// indexWriter makes an index.
type indexWriter struct {
	entries []entry
	out     bytes.Buffer
}

// add adds a value of a key. Keys that the format can't hold are left out.
func (w *indexWriter) add(key, text string, priority int) {
	for i := range len(key) {
		if key[i] == 0 || key[i] > maxKey {
			return
		}
	}
	w.entries = append(w.entries, entry{key, []Value{{uint32(priority), text}}})
}

// bytes returns the index's file.
func (w *indexWriter) bytes() ([]byte, error) {
	entries := mergeEntries(w.entries)
	w.out.Reset()
	w.out.Write(make([]byte, headerSize))
	root := uint32(headerSize)
	if len(entries) > 0 {
		root = w.node(entries, 0)
	}
	if w.out.Len() > maskOffset {
		return nil, errors.New("an index of more than 256 MiB")
	}
	header := binary.BigEndian.AppendUint32(nil, indexMagic)
	header = binary.BigEndian.AppendUint32(header, indexVersion)
	header = binary.BigEndian.AppendUint32(header, root)
	file := w.out.Bytes()
	copy(file, header)
	return file, nil
}

// mergeEntries sorts entries by key, and each one's values by priority, each value once.
func mergeEntries(entries []entry) []entry {
	slices.SortStableFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	var merged []entry
	for _, e := range entries {
		last := len(merged) - 1
		if last < 0 || merged[last].key != e.key {
			merged = append(merged, entry{e.key, slices.Clone(e.values)})
			continue
		}
		merged[last].values = append(merged[last].values, e.values...)
	}
	for i := range merged {
		merged[i].values = uniqueValues(merged[i].values)
	}
	return merged
}

// uniqueValues sorts values by priority, and leaves out those that come again.
func uniqueValues(values []Value) []Value {
	slices.SortStableFunc(values, func(a, b Value) int { return cmp.Compare(a.Priority, b.Priority) })
	seen := make(map[string]bool)
	return slices.DeleteFunc(values, func(v Value) bool {
		again := seen[v.Text]
		seen[v.Text] = true
		return again
	})
}

// node writes the node for entries, which are sorted and have depth characters in common, after those below it. It returns its reference.
func (w *indexWriter) node(entries []entry, depth int) uint32 {
	first, last := entries[0].key[depth:], entries[len(entries)-1].key[depth:]
	prefix := common(first, last)
	depth += len(prefix)
	var values []Value
	if len(entries[0].key) == depth {
		values, entries = entries[0].values, entries[1:]
	}
	children := w.children(entries, depth)
	ref := uint32(w.out.Len())
	if prefix != "" {
		ref |= flagPrefix
		w.string(prefix)
	}
	if len(entries) > 0 {
		ref |= flagChildren
		w.out.WriteByte(entries[0].key[depth])
		w.out.WriteByte(entries[len(entries)-1].key[depth])
		for _, child := range children {
			w.uint32(child)
		}
	}
	if len(values) > 0 {
		ref |= flagValues
		w.uint32(uint32(len(values)))
		for _, v := range values {
			w.uint32(v.Priority)
			w.string(v.Text)
		}
	}
	return ref
}

// children writes the nodes below one, and returns the references from its first character to its last.
func (w *indexWriter) children(entries []entry, depth int) []uint32 {
	if len(entries) == 0 {
		return nil
	}
	first := entries[0].key[depth]
	refs := make([]uint32, int(entries[len(entries)-1].key[depth])-int(first)+1)
	for len(entries) > 0 {
		c := entries[0].key[depth]
		n := slices.IndexFunc(entries, func(e entry) bool { return e.key[depth] != c })
		if n < 0 {
			n = len(entries)
		}
		refs[c-first] = w.node(entries[:n], depth+1)
		entries = entries[n:]
	}
	return refs
}

func (w *indexWriter) uint32(v uint32) {
	w.out.Write(binary.BigEndian.AppendUint32(nil, v))
}

func (w *indexWriter) string(s string) {
	w.out.WriteString(s)
	w.out.WriteByte(0)
}

// common returns what two strings both start with.
func common(a, b string) string {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return a[:n]
}
