package kmod

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Info is what a module says about itself in its .modinfo section, and what it exports.
type Info struct {
	// Depends are the names of the modules whose symbols it uses, with underscores.
	Depends []string
	// Aliases are patterns of the names that it is asked for by.
	Aliases []string
	// Softdeps are lines like "pre: a b post: c", Weakdeps names.
	Softdeps, Weakdeps []string
	// Symbols are the names that it exports.
	Symbols []string
}

const (
	// maxSection bounds a section that is read, in bytes.
	maxSection = 64 << 20
	// maxText bounds an alias or the name of a symbol, in bytes: kmod takes no longer ones.
	maxText = 4095
)

// ReadInfo reads the module in a file, which may be compressed.
func ReadInfo(path string) (*Info, error) { return new(reader).info(path) }

func (r *reader) info(path string) (*Info, error) {
	info, err := r.parse(path)
	if err != nil {
		return nil, fmt.Errorf("kernel module %s: %w", path, err)
	}
	return info, nil
}

func (r *reader) parse(path string) (*Info, error) {
	if Compressed(path) {
		content, err := r.read(path)
		if err != nil {
			return nil, err
		}
		return ParseInfo(bytes.NewReader(content))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ParseInfo(f)
}

// ParseInfo reads an uncompressed module.
func ParseInfo(module io.ReaderAt) (*Info, error) {
	o, err := readObject(module)
	if err != nil {
		return nil, err
	}
	modinfo := o.named(".modinfo")
	if modinfo == nil {
		return nil, errors.New("no .modinfo section: not a kernel module")
	}
	text, err := o.data(modinfo)
	if err != nil {
		return nil, err
	}
	info := &Info{}
	for entry := range bytes.SplitSeq(text, []byte{0}) {
		info.add(string(entry))
	}
	info.Symbols, err = o.exports()
	return info, err
}

// add takes an entry like "depends=a,b".
func (i *Info) add(entry string) {
	key, value, _ := strings.Cut(entry, "=")
	if len(value) > maxText || strings.ContainsAny(value, "\n\r") {
		return // no line of an index
	}
	switch key {
	case "depends":
		for name := range strings.SplitSeq(value, ",") {
			if name != "" {
				i.Depends = append(i.Depends, Name(name))
			}
		}
	case "alias":
		i.Aliases = append(i.Aliases, value)
	case "softdep":
		i.Softdeps = append(i.Softdeps, value)
	case "weakdep":
		i.Weakdeps = append(i.Weakdeps, strings.Fields(value)...)
	}
}

// exports returns the names of the exported symbols: those with a checksum (CONFIG_MODVERSIONS), else those that the symbol table has
// for the kernel's table, else all that this one's texts are.
func (o *object) exports() ([]string, error) {
	for _, prefix := range []string{"__crc_", "__ksymtab_"} {
		names, err := o.prefixed(prefix)
		if err != nil || len(names) > 0 {
			return names, err
		}
	}
	var names []string
	text, err := o.data(o.named("__ksymtab_strings"))
	for name := range bytes.SplitSeq(text, []byte{0}) {
		if len(name) > 0 && len(name) <= maxText {
			names = append(names, string(name))
		}
	}
	return names, err
}

// prefixed returns the names that the symbol table has with a prefix.
func (o *object) prefixed(prefix string) ([]string, error) {
	table := o.find(func(s *section) bool { return s.kind == typeSymbols })
	if table == nil {
		return nil, nil
	}
	texts, err := o.linked(table.link)
	if err != nil || !bytes.Contains(texts, []byte(prefix)) {
		return nil, err
	}
	symbols, err := o.data(table)
	if err != nil {
		return nil, err
	}
	var names []string
	total := 0
	for ; len(symbols) >= symbolSize; symbols = symbols[symbolSize:] {
		at := uint64(binary.LittleEndian.Uint32(symbols)) // st_name comes first
		name, ok := bytes.CutPrefix(cString(texts, at), []byte(prefix))
		if !ok || len(name) == 0 {
			continue
		}
		if total += len(name); total > maxSection {
			return nil, errors.New("symbols that share their names' text")
		}
		names = append(names, string(name))
	}
	return names, nil
}
