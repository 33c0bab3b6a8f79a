package kmod

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Index is a file such as modules.dep.bin. It is read piece by piece, as a search needs it.
type Index struct {
	r     io.ReaderAt
	root  uint32
	pages map[int64][]byte
	at    int64 // the number of the page that was used last
	last  []byte
	left  int // of maxRead, in the present search
}

const (
	pageSize = 4096
	// maxPages bounds what is kept of an index, in pages.
	maxPages = 4096
	// maxRead bounds what a search reads and compares, in bytes: in a damaged file nodes may have children in common. All aliases of
	// Debian's kernel have 1.4 MiB.
	maxRead = 8 << 20
	// maxString bounds a prefix or a value, in bytes. The line of a module with hundreds of dependencies has some 10 KiB.
	maxString = 1 << 20
	// maxValues bounds the values of a key.
	maxValues = 1 << 16
)

var errDamaged = errors.New("the index is damaged; make it anew (depmod)")

// OpenIndex reads an index's header. r stays the caller's, and open as long as the index is used.
func OpenIndex(r io.ReaderAt) (*Index, error) {
	var header [headerSize]byte
	if _, err := r.ReadAt(header[:], 0); err != nil {
		return nil, fmt.Errorf("read the index's header: %w", err)
	}
	magic, version := binary.BigEndian.Uint32(header[:]), binary.BigEndian.Uint32(header[4:])
	if magic != indexMagic || version>>16 != indexVersion>>16 {
		return nil, fmt.Errorf("unknown index of modules: magic %#x, version %#x; expected %#x, %#x", magic, version, uint32(indexMagic), indexVersion)
	}
	return &Index{r: r, root: binary.BigEndian.Uint32(header[8:]), pages: make(map[int64][]byte)}, nil
}

// Get returns the values of a key, none for one that is not there.
func (x *Index) Get(key string) ([]Value, error) { return x.search(key, false) }

// Find returns the values of all keys that, as patterns, match name, sorted by priority, each once.
func (x *Index) Find(name string) ([]Value, error) { return x.search(name, true) }

// Walk calls f for each value, in the order of the keys.
func (x *Index) Walk(f func(key string, v Value)) error {
	x.left = maxRead
	return x.walk(x.root, 0, nil, func(key []byte, values []Value) {
		for _, v := range values {
			f(string(key), v)
		}
	})
}

func (x *Index) search(name string, wild bool) ([]Value, error) {
	x.left = maxRead
	s := search{index: x, name: name, wild: wild}
	if err := s.run(); err != nil {
		return nil, err
	}
	return uniqueValues(s.found), nil
}

// search is one for the keys that match a name.
type search struct {
	index *Index
	name  string
	wild  bool
	found []Value
}

// run follows the name's characters from the root, and looks below every wildcard that it meets.
func (s *search) run() error {
	ref, at := s.index.root, 0
	for {
		n, err := s.index.node(ref)
		if err != nil {
			return err
		}
		for i := range len(n.prefix) {
			if s.wild && isWild(n.prefix[i]) {
				return s.below(ref, i, at, nil)
			}
			if at >= len(s.name) || s.name[at] != n.prefix[i] {
				return nil
			}
			at++
		}
		if err := s.wildChildren(n, at); err != nil {
			return err
		}
		if at == len(s.name) {
			s.found = append(s.found, n.values...)
			return nil
		}
		if ref = n.child(s.name[at]); ref == 0 {
			return nil
		}
		at++
	}
}

func (s *search) wildChildren(n node, at int) error {
	if !s.wild {
		return nil
	}
	for _, c := range []byte("*?[") {
		child := n.child(c)
		if child == 0 {
			continue
		}
		if err := s.below(child, 0, at, []byte{c}); err != nil {
			return err
		}
	}
	return nil
}

// below looks at all keys of a node, of whose prefix skip characters are known. start is what of them is after the at-th character.
func (s *search) below(ref uint32, skip, at int, start []byte) error {
	return s.index.walk(ref, skip, start, func(pattern []byte, values []Value) {
		if Match(string(pattern), s.name[at:]) {
			s.found = append(s.found, values...)
		}
	})
}

func isWild(c byte) bool { return c == '*' || c == '?' || c == '[' }

// walk calls f for each node below ref that has values, with key and what comes after it. skip characters of the first prefix are left out.
func (x *Index) walk(ref uint32, skip int, key []byte, f func(key []byte, values []Value)) error {
	if len(key) > maxText {
		return errDamaged
	}
	n, err := x.node(ref)
	if err != nil {
		return err
	}
	key = append(key, n.prefix[skip:]...)
	x.left -= len(key)
	if len(n.values) > 0 {
		f(key, n.values)
	}
	for i, child := range n.children {
		if child == 0 {
			continue
		}
		if err := x.walk(child, 0, append(slices.Clip(key), n.first+byte(i)), f); err != nil {
			return err
		}
	}
	return nil
}

// node is one of the tree's; see trie.go.
type node struct {
	prefix   string
	first    byte
	children []uint32
	values   []Value
}

// child returns the reference of what goes on with c, 0 for nothing.
func (n node) child(c byte) uint32 {
	if c < n.first || int(c-n.first) >= len(n.children) {
		return 0
	}
	return n.children[c-n.first]
}

func (x *Index) node(ref uint32) (n node, err error) {
	if x.left--; x.left < 0 {
		return n, errDamaged
	}
	c := cursor{x: x, at: int64(ref & maskOffset)}
	if ref&flagPrefix != 0 {
		n.prefix = c.string()
	}
	if ref&flagChildren != 0 {
		n.first = c.byte()
		last := c.byte()
		if last < n.first || last > maxKey {
			c.fail(errDamaged)
		}
		for range int(last) - int(n.first) + 1 {
			if c.err != nil {
				break
			}
			child := c.uint32()
			if child&maskOffset >= ref&maskOffset { // they are written first; else there could be a circle
				c.fail(errDamaged)
			}
			n.children = append(n.children, child)
		}
	}
	if ref&flagValues != 0 {
		count := c.uint32()
		if count > maxValues {
			c.fail(errDamaged)
		}
		for i := uint32(0); i < count && c.err == nil; i++ {
			n.values = append(n.values, Value{c.uint32(), c.string()})
		}
	}
	return n, c.err
}

// cursor reads on from a place of an index. After an error all it reads is zero.
type cursor struct {
	x   *Index
	at  int64
	err error
}

func (c *cursor) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

func (c *cursor) byte() byte {
	if c.x.left--; c.x.left < 0 {
		c.fail(errDamaged)
	}
	if c.err != nil {
		return 0
	}
	page, err := c.x.page(c.at / pageSize)
	if err != nil {
		c.fail(err)
		return 0
	}
	if int(c.at%pageSize) >= len(page) {
		c.fail(errDamaged)
		return 0
	}
	c.at++
	return page[(c.at-1)%pageSize]
}

func (c *cursor) uint32() uint32 {
	var v uint32
	for range 4 {
		v = v<<8 | uint32(c.byte())
	}
	return v
}

func (c *cursor) string() string {
	var b strings.Builder
	for {
		char := c.byte()
		if char == 0 || c.err != nil {
			return b.String()
		}
		if b.Len() >= maxString {
			c.fail(errDamaged)
			return ""
		}
		b.WriteByte(char)
	}
}

// page returns a part of the file, shorter at its end.
func (x *Index) page(i int64) ([]byte, error) {
	if x.at == i && x.last != nil {
		return x.last, nil
	}
	page, ok := x.pages[i]
	if !ok {
		var err error
		if page, err = x.readPage(i); err != nil {
			return nil, err
		}
	}
	x.at, x.last = i, page
	return page, nil
}

func (x *Index) readPage(i int64) ([]byte, error) {
	page := make([]byte, pageSize)
	n, err := x.r.ReadAt(page, i*pageSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the index: %w", err)
	}
	if len(x.pages) >= maxPages {
		clear(x.pages)
	}
	x.pages[i] = page[:n]
	return page[:n], nil
}
