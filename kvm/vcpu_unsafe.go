package kvm

import (
	"sync/atomic"
	"unsafe"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

func runPage(m *sys.Mapping) *uapi.Run {
	return (*uapi.Run)(unsafe.Pointer(unsafe.SliceData(m.Bytes())))
}

// immediateExit is where Run.ImmediateExit lies in the first word, which is all input.
const immediateExit = uint32(1) << (8 * unsafe.Offsetof(uapi.Run{}.ImmediateExit))

// setImmediateExit may be called while the kernel reads the field in KVM_RUN.
func (c *VCPU) setImmediateExit(on bool) {
	word := (*uint32)(unsafe.Pointer(c.run))
	if on {
		atomic.OrUint32(word, immediateExit)
		return
	}
	atomic.AndUint32(word, ^immediateExit)
}

// union returns the exit's data as one of the Run… types.
func union[T any](c *VCPU) *T { return (*T)(unsafe.Pointer(&c.run.Exit)) }
