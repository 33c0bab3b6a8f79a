package virtio

import (
	"encoding/binary"

	"github.com/stile-vmm/stile/devices/pci"
)

// configAccess is the capability by which firmware reaches the BAR through config space
// (4.1.4.9). The function's lock guards it.
type configAccess struct {
	fn    *pci.Function
	shape [accessSize]byte // the capability as the guest has written it
}

const (
	accessBAR    = 4 // offsets in the capability
	accessOff    = 8
	accessLength = 12
	accessData   = 16
	accessSize   = 20
)

func (t *Transport) addConfigAccess() error {
	body := vendorCap(capPCI, 0, 0, make([]byte, 4))
	writable := make([]byte, len(body))
	writable[accessBAR-2] = 0xff
	for i := accessOff - 2; i < len(writable); i++ {
		writable[i] = 0xff
	}
	at, err := t.fn.AddCapability(pci.CapVendor, body, writable)
	if err != nil {
		return err
	}
	a := &configAccess{fn: t.fn}
	t.fn.AddHook(pci.Hook{Off: at, Size: accessSize, Read: a.read, ReadAfterWrite: true, Write: a.write})
	t.fn.OnReset(func() { a.shape = [accessSize]byte{} }) // no vCPU is running
	return nil
}

// target returns where the data register leads to; n is 0 if the guest's choice is not valid.
func (a *configAccess) target() (index int, off uint64, n int) {
	o := binary.LittleEndian.Uint32(a.shape[accessOff:])
	length := binary.LittleEndian.Uint32(a.shape[accessLength:])
	if length != 1 && length != 2 && length != 4 || o%length != 0 {
		return 0, 0, 0
	}
	return int(a.shape[accessBAR]), uint64(o), int(length)
}

func (a *configAccess) read(off int, p []byte) {
	if off+len(p) <= accessData {
		return
	}
	index, at, n := a.target()
	var data [4]byte
	if n > 0 {
		a.fn.AccessBAR(index, at, data[:n], false)
	}
	for i := range p {
		if k := off + i - accessData; k >= 0 {
			p[i] = data[k]
		}
	}
}

func (a *configAccess) write(off int, p []byte) {
	copy(a.shape[off:], p)
	if off+len(p) <= accessData {
		return
	}
	if index, at, n := a.target(); n > 0 {
		a.fn.AccessBAR(index, at, a.shape[accessData:accessData+n], true)
	}
}
