package kvm

import (
	"unsafe"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

const (
	runSize        = int(unsafe.Sizeof(uapi.Run{}))
	listHeaderSize = int(unsafe.Sizeof(uapi.ListHeader{}))
	// minXSave is the size of the extended state without features that are allocated on demand, in
	// bytes. KVM never takes or gives less.
	minXSave = int(unsafe.Sizeof(uapi.XSave{}))
)

// list lays entries out as the kernel wants them: a header with their number, then they.
func list[T any](entries []T) []byte {
	size := int(unsafe.Sizeof(*new(T)))
	buf := make([]byte, listHeaderSize+len(entries)*size)
	(*uapi.ListHeader)(unsafe.Pointer(unsafe.SliceData(buf))).N = uint32(len(entries))
	copy(buf[listHeaderSize:], unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(entries))), len(entries)*size))
	return buf
}

// unlist copies the entries out of what list made and the kernel filled in.
func unlist[T any](buf []byte) []T {
	size := int(unsafe.Sizeof(*new(T)))
	room := (len(buf) - listHeaderSize) / size
	n := min(int((*uapi.ListHeader)(unsafe.Pointer(unsafe.SliceData(buf))).N), room)
	entries := make([]T, n)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(entries))), n*size), buf[listHeaderSize:])
	return entries
}

func dirtyLog(fd *sys.FD, slot uint32, bitmap []uint64) error {
	log := dirtyLogArg{slot: slot, bitmap: unsafe.Pointer(unsafe.SliceData(bitmap))}
	_, err := sys.IoctlPtr(fd, uapi.GetDirtyLog, &log)
	return err
}

// dirtyLogArg is uapi.DirtyLog with the address as a pointer, so that the bitmap is kept
// alive and found if it moves with the stack.
type dirtyLogArg struct {
	slot   uint32
	_      uint32
	bitmap unsafe.Pointer
}

func (d *VFIODevice) set(attr uint64, fd int) error {
	arg := struct {
		flags, group uint32
		attr         uint64
		fd           *int32
	}{group: uapi.DevVFIOFile, attr: attr, fd: new(int32)}
	*arg.fd = int32(fd)
	_, err := sys.IoctlPtr(d.fd, uapi.SetDeviceAttr, &arg)
	return err
}

// oneReg reads or writes a single register of the vCPU.
func (c *VCPU) oneReg(request uintptr, id uint64, value *uint64) error {
	arg := struct { // uapi.OneReg with the address as a pointer, see dirtyLogArg
		id    uint64
		value *uint64
	}{id, value}
	_, err := sys.IoctlPtr(c.fd, request, &arg)
	return err
}
