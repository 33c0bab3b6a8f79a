package vfio

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/internal/uapi/iommufd"
	"github.com/stile-vmm/stile/internal/uapi/vfio"
)

// call is an ioctl: errors and Stats have its name, which is C's.
type call struct {
	name   string
	number uintptr
}

// Calls of a container, a group, a device, an iommufd. Opening a file is none, but fails
// with an errno that wants explaining like theirs.
var (
	callGetAPIVersion  = call{"VFIO_GET_API_VERSION", vfio.GetAPIVersion}
	callCheckExtension = call{"VFIO_CHECK_EXTENSION", vfio.CheckExtension}
	callSetIOMMU       = call{"VFIO_SET_IOMMU", vfio.SetIOMMU}
	callGetIOMMUInfo   = call{"VFIO_IOMMU_GET_INFO", vfio.GetIOMMUInfo}
	callMapDMA         = call{"VFIO_IOMMU_MAP_DMA", vfio.MapDMA}
	callUnmapDMA       = call{"VFIO_IOMMU_UNMAP_DMA", vfio.UnmapDMA}

	callGroupStatus    = call{"VFIO_GROUP_GET_STATUS", vfio.GroupGetStatus}
	callSetContainer   = call{"VFIO_GROUP_SET_CONTAINER", vfio.GroupSetContainer}
	callUnsetContainer = call{"VFIO_GROUP_UNSET_CONTAINER", vfio.GroupUnsetContainer}
	callGetDeviceFD    = call{"VFIO_GROUP_GET_DEVICE_FD", vfio.GroupGetDeviceFD}

	callDeviceInfo   = call{"VFIO_DEVICE_GET_INFO", vfio.DeviceGetInfo}
	callRegionInfo   = call{"VFIO_DEVICE_GET_REGION_INFO", vfio.DeviceGetRegionInfo}
	callIRQInfo      = call{"VFIO_DEVICE_GET_IRQ_INFO", vfio.DeviceGetIRQInfo}
	callSetIRQs      = call{"VFIO_DEVICE_SET_IRQS", vfio.DeviceSetIRQs}
	callReset        = call{"VFIO_DEVICE_RESET", vfio.DeviceReset}
	callHotResetInfo = call{"VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", vfio.GetPCIHotResetInfo}
	callHotReset     = call{"VFIO_DEVICE_PCI_HOT_RESET", vfio.PCIHotReset}
	callFeature      = call{"VFIO_DEVICE_FEATURE", vfio.Feature}
	callBind         = call{"VFIO_DEVICE_BIND_IOMMUFD", vfio.BindIOMMUFD}
	callAttach       = call{"VFIO_DEVICE_ATTACH_IOMMUFD_PT", vfio.AttachIOMMUFD}
	callDetach       = call{"VFIO_DEVICE_DETACH_IOMMUFD_PT", vfio.DetachIOMMUFD}

	callDestroy    = call{"IOMMU_DESTROY", iommufd.Destroy}
	callIOASAlloc  = call{"IOMMU_IOAS_ALLOC", iommufd.IOASAlloc}
	callIOVARanges = call{"IOMMU_IOAS_IOVA_RANGES", iommufd.IOASIOVARanges}
	callIOASMap    = call{"IOMMU_IOAS_MAP", iommufd.IOASMap}
	callIOASUnmap  = call{"IOMMU_IOAS_UNMAP", iommufd.IOASUnmap}

	openContainer = call{name: "open container"}
	openGroup     = call{name: "open group"}
	openCdev      = call{name: "open device"}
	openIOMMU     = call{name: "open iommufd"}
)

// Stats says what was asked of the kernel.
type Stats struct {
	IOCTLs map[string]uint64 `json:"ioctls"` // that were issued, by their names in C
	// Kernel is the time spent in them and in opening, reading, writing, mapping and closing files.
	Kernel time.Duration `json:"kernel"`
}

// counter counts calls. Methods may be called concurrently.
type counter struct {
	kernel atomic.Int64 // ns

	mu    sync.Mutex
	calls map[string]uint64
}

func newCounter() *counter { return &counter{calls: make(map[string]uint64)} }

func (c *counter) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[name]++
}

// since adds the time from begin on: counter.since(time.Now()) is to be deferred.
func (c *counter) since(begin time.Time) { c.kernel.Add(int64(time.Since(begin))) }

func (c *counter) stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{IOCTLs: maps.Clone(c.calls), Kernel: time.Duration(c.kernel.Load())}
}

// openCounted opens a file whose calls are counted.
func openCounted(k kernel, path string, c *counter) (file, error) {
	defer c.since(time.Now())
	f, err := k.open(path)
	if err != nil {
		return nil, err
	}
	return counted{f, c}, nil
}

// counted is a file whose ioctls are counted.
type counted struct {
	file
	counter *counter
}

func (f counted) control(c call, arg uintptr) (int, error) {
	f.counter.add(c.name)
	defer f.counter.since(time.Now())
	return f.file.control(c, arg)
}

func (f counted) controlBytes(c call, arg []byte) (int, error) {
	f.counter.add(c.name)
	defer f.counter.since(time.Now())
	return f.file.controlBytes(c, arg)
}

func (f counted) controlVia(c call, arg []byte, at int, mem *sys.Mapping) (int, error) {
	f.counter.add(c.name)
	defer f.counter.since(time.Now())
	return f.file.controlVia(c, arg, at, mem)
}

func (f counted) pread(p []byte, off int64) (int, error) {
	defer f.counter.since(time.Now())
	return f.file.pread(p, off)
}

func (f counted) pwrite(p []byte, off int64) (int, error) {
	defer f.counter.since(time.Now())
	return f.file.pwrite(p, off)
}

func (f counted) mmap(off int64, n, prot int, align, phase uint64) (*sys.Mapping, error) {
	defer f.counter.since(time.Now())
	return f.file.mmap(off, n, prot, align, phase)
}

func (f counted) Close() error {
	defer f.counter.since(time.Now())
	return f.file.Close()
}
