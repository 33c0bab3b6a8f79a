package kmod

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// object is a relocatable ELF64 file (System V ABI, gABI chapter 4), of which sections are read. Package debug/elf would bring the readers of
// all debug information into each guest.
type object struct {
	r        io.ReaderAt
	sections []section
}

type section struct {
	name         string
	kind, link   uint32
	offset, size uint64
}

const (
	elfHeader     = 64
	sectionHeader = 64
	symbolSize    = 24
	typeSymbols   = 2 // SHT_SYMTAB
	typeNoBits    = 8 // SHT_NOBITS
	maxSections   = 1 << 16
)

var errNoELF = errors.New("not an ELF file for x86-64")

// readObject reads the headers of the sections.
func readObject(r io.ReaderAt) (*object, error) {
	var h [elfHeader]byte
	if _, err := r.ReadAt(h[:], 0); errors.Is(err, io.EOF) {
		return nil, errNoELF
	} else if err != nil {
		return nil, err
	}
	const class64LittleEndian = "\x7fELF\x02\x01"
	if !bytes.HasPrefix(h[:], []byte(class64LittleEndian)) || binary.LittleEndian.Uint16(h[58:]) != sectionHeader {
		return nil, errNoELF
	}
	o := &object{r: r}
	// A file with more sections than maxSections has their number elsewhere: no module has so many.
	table := section{name: "of headers", offset: binary.LittleEndian.Uint64(h[40:]), size: sectionHeader * uint64(binary.LittleEndian.Uint16(h[60:]))}
	headers, err := o.data(&table)
	if err != nil {
		return nil, err
	}
	names := make([]uint32, 0, len(headers)/sectionHeader)
	for ; len(headers) >= sectionHeader; headers = headers[sectionHeader:] {
		names = append(names, binary.LittleEndian.Uint32(headers))
		o.sections = append(o.sections, section{
			kind: binary.LittleEndian.Uint32(headers[4:]), offset: binary.LittleEndian.Uint64(headers[24:]),
			size: binary.LittleEndian.Uint64(headers[32:]), link: binary.LittleEndian.Uint32(headers[40:]),
		})
	}
	strings, err := o.linked(uint32(binary.LittleEndian.Uint16(h[62:])))
	if err != nil {
		return nil, err
	}
	for i, at := range names {
		o.sections[i].name = string(cString(strings, uint64(at)))
	}
	return o, nil
}

// find returns the first section that is meant, nil for none.
func (o *object) find(is func(*section) bool) *section {
	for i := range o.sections {
		if is(&o.sections[i]) {
			return &o.sections[i]
		}
	}
	return nil
}

// named returns the section of a name, nil for none.
func (o *object) named(name string) *section {
	return o.find(func(s *section) bool { return s.name == name })
}

// linked reads the section of an index; one that is not there is empty.
func (o *object) linked(index uint32) ([]byte, error) {
	if uint64(index) >= uint64(len(o.sections)) {
		return nil, nil
	}
	return o.data(&o.sections[index])
}

// data reads a section; nil is an empty one.
func (o *object) data(s *section) ([]byte, error) {
	if s == nil || s.kind == typeNoBits {
		return nil, nil
	}
	if s.size > maxSection || s.offset > 1<<62 {
		return nil, fmt.Errorf("section %s: %d bytes at %d: the limit is %d", s.name, s.size, s.offset, maxSection)
	}
	// In pieces, because a file that is cut may promise more than it has.
	var b bytes.Buffer
	n, err := io.Copy(&b, io.NewSectionReader(o.r, int64(s.offset), int64(s.size)))
	if err == nil && uint64(n) < s.size {
		err = fmt.Errorf("section %s is cut after %d of %d bytes", s.name, n, s.size)
	}
	return b.Bytes(), err
}

// cString returns the string that begins at an offset of a table, nil for one of more than maxText bytes.
func cString(table []byte, at uint64) []byte {
	if at >= uint64(len(table)) {
		return nil
	}
	table = table[at:min(uint64(len(table)), at+maxText+1)]
	end := bytes.IndexByte(table, 0)
	return table[:max(end, 0)]
}
