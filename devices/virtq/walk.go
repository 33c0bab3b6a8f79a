package virtq

import (
	"encoding/binary"
	"fmt"
)

// Descriptor flags (virtio 1.3, 2.7.5).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
)

// descriptor is a private copy of one table entry.
type descriptor struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

func put32(b []byte, v uint32) { binary.LittleEndian.PutUint32(b, v) }

// copyDescriptor copies entry i of a table once; i is within it.
func copyDescriptor(table []byte, i int) descriptor {
	var b [descSize]byte
	copy(b[:], table[i*descSize:])
	return descriptor{
		addr:  binary.LittleEndian.Uint64(b[0:]),
		len:   binary.LittleEndian.Uint32(b[8:]),
		flags: binary.LittleEndian.Uint16(b[12:]),
		next:  binary.LittleEndian.Uint16(b[14:]),
	}
}

// walk collects the chain that begins at head. Every step uses up one of the table's
// descriptors, so a loop ends with an error.
func (q *Queue) walk(c *Chain, head uint16) error {
	c.reset(head)
	table, i, left, inside := q.desc, int(head), int(q.size), false
	for {
		if i >= len(table)/descSize {
			return fmt.Errorf("descriptor index %d beyond a table of %d: %w", i, len(table)/descSize, ErrGuest)
		}
		if left--; left < 0 {
			return fmt.Errorf("descriptor chain longer than its table (a loop): %w", ErrGuest)
		}
		d := copyDescriptor(table, i)
		switch {
		case d.flags&descIndirect != 0:
			t, err := q.indirectTable(d, inside)
			if err != nil {
				return err
			}
			table, i, left, inside = t, 0, len(t)/descSize, true
			continue
		default:
			if err := q.addSegment(c, d); err != nil {
				return err
			}
		}
		if d.flags&descNext == 0 {
			return nil
		}
		i = int(d.next)
	}
}

// indirectTable returns the table that d points to (2.7.5.3). It is not copied: its
// entries are, one by one.
func (q *Queue) indirectTable(d descriptor, inside bool) ([]byte, error) {
	switch {
	case !q.indirect:
		return nil, fmt.Errorf("indirect descriptor without the feature: %w", ErrGuest)
	case inside:
		return nil, fmt.Errorf("indirect descriptor in an indirect table: %w", ErrGuest)
	case d.flags&descNext != 0:
		return nil, fmt.Errorf("indirect descriptor with a next one: %w", ErrGuest)
	case d.len == 0 || d.len%descSize != 0 || d.len > MaxChain*descSize:
		return nil, fmt.Errorf("indirect table of %d bytes: %w", d.len, ErrGuest)
	}
	t, err := q.mem.Slice(d.addr, uint64(d.len))
	if err != nil {
		return nil, fmt.Errorf("indirect table at %#x, %d bytes: %w: %w", d.addr, d.len, err, ErrGuest)
	}
	return t, nil
}

func (q *Queue) addSegment(c *Chain, d descriptor) error {
	write := d.flags&descWrite != 0
	if !write && c.reads < len(c.segs) {
		return fmt.Errorf("readable descriptor behind a writable one: %w", ErrGuest)
	}
	if len(c.segs) >= MaxChain {
		return fmt.Errorf("descriptor chain longer than %d: %w", MaxChain, ErrGuest)
	}
	b, err := q.mem.Slice(d.addr, uint64(d.len))
	if err != nil {
		return fmt.Errorf("buffer at %#x, %d bytes: %w: %w", d.addr, d.len, err, ErrGuest)
	}
	total := &c.readLen
	if write {
		total = &c.writeLen
	}
	if *total += uint64(d.len); *total > maxLen {
		return fmt.Errorf("descriptor chain of more than 4 GiB: %w", ErrGuest)
	}
	c.segs = append(c.segs, b)
	if !write {
		c.reads = len(c.segs)
	}
	return nil
}
