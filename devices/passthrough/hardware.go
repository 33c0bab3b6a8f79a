package passthrough

import (
	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/vfio"
)

// Region is a part of a device: a BAR, the ROM or config space. *vfio.Region is one.
type Region interface {
	Size() uint64 // bytes, 0 if there is no such region
	// Areas are the parts that Mmap can map.
	Areas() []vfio.Area
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Mmap(vfio.Area) (*sys.Mapping, error)
}

// Hardware is a device that can be passed through; methods are those of *vfio.Device.
type Hardware interface {
	Name() string
	Config() Region
	BAR(i int) Region
	ROM() Region

	IRQInfo(vfio.IRQ) vfio.IRQInfo
	EnableMSI(kind vfio.IRQ, fds []int) error
	SetVector(vector, fd int) error
	EnableINTx(trigger int) error
	SetUnmask(fd int) error
	UnmaskINTx() error
	DisableIRQs() error
	Notify(kind vfio.IRQ, fd int) error
}

// Open returns a VFIO device as Hardware.
func Open(d *vfio.Device) Hardware { return device{d} }

type device struct{ *vfio.Device }

func (d device) Config() Region   { return d.Device.Config() }
func (d device) BAR(i int) Region { return d.Device.BAR(i) }
func (d device) ROM() Region      { return d.Device.ROM() }
