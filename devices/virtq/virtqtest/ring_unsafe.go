package virtqtest

import (
	"sync/atomic"
	"unsafe"
)

// load16 reads the 16-bit field at b[off] through the aligned word around it.
func load16(b []byte, off int) uint16 {
	p := uintptr(unsafe.Pointer(&b[off]))
	word := (*uint32)(unsafe.Add(unsafe.Pointer(&b[off]), -int(p&2)))
	return uint16(atomic.LoadUint32(word) >> (p & 2 * 8))
}

// storeWord writes flags and index of a ring at once, in order with all other accesses.
func storeWord(b []byte, v uint32) {
	_ = b[3]
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&b[0])), v)
}
