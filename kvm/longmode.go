package kvm

import "encoding/binary"

// Where the page tables of enterLongMode are, in guest-physical space.
const (
	pml4Addr = 0xa000
	pdptAddr = 0xb000
	pageDirs = 0xc000 // four pages
	// longModeRAM is the least RAM that holds them, in bytes.
	longModeRAM = 0x10000
)

// enterLongMode writes page tables into ram (guest-physical 0, at least longModeRAM bytes)
// that map the first 4 GiB to themselves in 2 MiB pages, and makes s the state of 64-bit
// mode at CPL 0 (Intel SDM 3A, 4.5 and 10.8.5).
func enterLongMode(s *Sregs, ram []byte) {
	const (
		present  = 1 << 0
		writable = 1 << 1
		user     = 1 << 2
		large    = 1 << 7
		table    = present | writable | user
	)
	put := func(addr, index int, entry uint64) {
		binary.LittleEndian.PutUint64(ram[addr+8*index:], entry)
	}
	put(pml4Addr, 0, pdptAddr|table)
	for i := range 4 {
		put(pdptAddr, i, uint64(pageDirs+i<<12)|table)
	}
	for i := range 4 * 512 {
		put(pageDirs, i, uint64(i)<<21|table|large)
	}
	s.CS = flatSegment(0x08, 0xb)
	s.CS.L = 1
	data := flatSegment(0x10, 0x3)
	data.DB = 1
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	s.CR3 = pml4Addr
	s.CR4 |= cr4PAE
	s.CR0 |= cr0PE | cr0PG
	s.EFER |= eferLME | eferLMA
}

// flatSegment returns a segment of 4 GiB from 0 with a type of the SDM's table 3-1.
func flatSegment(selector uint16, typ uint8) Segment {
	return Segment{Limit: 0xffffffff, Selector: selector, Typ: typ, Present: 1, S: 1, G: 1}
}
