package virtq

import (
	"sync/atomic"
	"unsafe"
)

// The rings are shared with a guest that runs at the same time, so index accesses need
// single-copy atomicity and order. sync/atomic starts at 32 bits and wants 4-byte
// alignment, while ring indices have 16 bits at 2-byte alignment. Hence:
//
//   - A 16-bit load reads the aligned 32-bit word around the field, atomically. Guest RAM
//     is mapped in whole pages, so that word is always within it. The load has acquire
//     order: ring entries read afterwards are at least as new as the index.
//   - The used ring is 4-byte aligned and the device owns flags and index, its first
//     word: both are stored as one word. Go's atomic store is sequentially consistent, so
//     entries written before are visible first, and a later load of the driver's
//     suppression field cannot pass it (virtio 1.3, 2.7.13.4.1).
//   - avail_event stands alone in front of memory that is not ours, so the word around
//     it must not be written. It gets a plain 16-bit store, which is atomic on x86-64
//     when aligned (Intel SDM vol. 3A, 9.1.1), followed by a locked instruction as the
//     full barrier. The compiler does not move stores across sync/atomic operations.

// load16 reads the little-endian 16-bit field at b[off], which is 2-byte aligned.
func load16(b []byte, off int) uint16 {
	p := uintptr(unsafe.Pointer(&b[off]))
	shift := (p & 2) * 8
	word := (*uint32)(unsafe.Add(unsafe.Pointer(&b[off]), -int(p&2)))
	return uint16(atomic.LoadUint32(word) >> shift)
}

// storeWord writes the 32-bit word at b[0], which is 4-byte aligned.
func storeWord(b []byte, v uint32) {
	_ = b[3]
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&b[0])), v)
}

// store16 writes the 16-bit field at b[off], which is 2-byte aligned, and orders it
// before all later loads. fence is any word of the caller's.
func store16(b []byte, off int, v uint16, fence *uint32) {
	_ = b[off+1]
	*(*uint16)(unsafe.Pointer(&b[off])) = v
	atomic.AddUint32(fence, 1)
}
