package kvm

import (
	"fmt"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// XSave is a vCPU's extended state: the XSAVE area in standard format (Intel SDM 1, 13.4), in
// bytes. Where guests can have AMX it is longer than a page.
type XSave []byte

// maxXSave is far above any CPU's, in bytes.
const maxXSave = 1 << 20

// xsaveSize is the size of the extended state of this VM's vCPUs, in bytes.
func (vm *VM) xsaveSize() (n int, known bool) {
	n = vm.CheckExtension(uapi.CapXSave2)
	return min(max(n, minXSave), maxXSave), n > 0
}

// XSave returns the extended state, dynamic features (AMX) included.
func (c *VCPU) XSave() (XSave, error) {
	size, known := c.vm.xsaveSize()
	request := uintptr(uapi.GetXSave)
	if known {
		request = uapi.GetXSave2 // KVM_GET_XSAVE fails where the state is longer than a page
	}
	x := make(XSave, size)
	if _, err := sys.IoctlBytes(c.fd, request, x); err != nil {
		return nil, fmt.Errorf("get extended state of vCPU %d: %w", c.id, err)
	}
	return x, nil
}

// SetXSave sets the extended state, which XSave returned.
func (c *VCPU) SetXSave(x XSave) error {
	if size, _ := c.vm.xsaveSize(); len(x) != size {
		return fmt.Errorf("set extended state of vCPU %d: it has %d bytes, want %d", c.id, len(x), size)
	}
	if _, err := sys.IoctlBytes(c.fd, uapi.SetXSave, x); err != nil {
		return fmt.Errorf("set extended state of vCPU %d: %w", c.id, err)
	}
	return nil
}
