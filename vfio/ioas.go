package vfio

import (
	"errors"
	"fmt"

	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/internal/uapi/iommufd"
	"github.com/stile-vmm/stile/internal/uapi/vfio"
	"golang.org/x/sys/unix"
)

// ioas is the backend of iommufd: one I/O address space for all devices. Its maps live as
// long as it does.
type ioas struct {
	kernel  kernel
	options Options
	file    file
	id      uint32
}

func newIOAS(k kernel, o Options, c *counter) (*ioas, error) {
	f, err := openCounted(k, iommuPath, c)
	if err != nil {
		return nil, openIOMMU.fail(iommuPath, err)
	}
	s := &ioas{kernel: k, options: o, file: f}
	arg := iommufd.IOASAllocArg{}
	arg.Size = uint32(len(bytesOf(&arg)))
	if _, err := s.file.controlBytes(callIOASAlloc, bytesOf(&arg)); err != nil {
		return nil, errors.Join(callIOASAlloc.fail(iommuPath, err), f.Close())
	}
	s.id = arg.ID
	return s, nil
}

func (s *ioas) attach(n Node, calls *counter) (file, error) {
	if err := n.needCdev(); err != nil {
		return nil, err
	}
	f, err := openCounted(s.kernel, n.Cdev, calls)
	if err != nil {
		return nil, s.options.describe(n, openCdev.fail(n.Name, err))
	}
	if err := s.options.addToKVM(f); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", n.Name, err), f.Close())
	}
	if err := s.bind(n, f); err != nil {
		return nil, errors.Join(s.options.describe(n, err), s.options.removeFromKVM(f), f.Close())
	}
	return f, nil
}

func (s *ioas) bind(n Node, f file) error {
	bind := vfio.DeviceBind{IOMMUFD: int32(s.file.Int())}
	bind.ArgSize = uint32(len(bytesOf(&bind)))
	if _, err := retryBusy(func() (int, error) { return f.controlBytes(callBind, bytesOf(&bind)) }); err != nil {
		return callBind.fail(n.Name, err)
	}
	// For a device that is attached already this would replace its address space and that of
	// its whole group; a fresh descriptor never is.
	attach := vfio.DeviceAttach{PTID: s.id}
	attach.ArgSize = uint32(len(bytesOf(&attach)))
	if _, err := retryAttach(func() (int, error) { return f.controlBytes(callAttach, bytesOf(&attach)) }); err != nil {
		return callAttach.fail(n.Name, err)
	}
	return nil
}

func (s *ioas) detach(n Node, f file) error {
	var errs []error
	arg := vfio.DeviceDetach{}
	arg.ArgSize = uint32(len(bytesOf(&arg)))
	if _, err := f.controlBytes(callDetach, bytesOf(&arg)); err != nil {
		errs = append(errs, callDetach.fail(n.Name, err))
	}
	return errors.Join(append(errs, s.options.removeFromKVM(f), f.Close())...)
}

func (s *ioas) translates() bool { return true }

// limits asks for the ranges, which the kernel writes to memory of ours.
func (s *ioas) limits() (Limits, error) {
	for room := 64; ; {
		mem, err := sys.MapAnonymous(room * iovaRangeSize)
		if err != nil {
			return Limits{}, err
		}
		arg := iommufd.IOVARangesArg{IOASID: s.id, NumIOVAs: uint32(room)}
		arg.Size = uint32(len(bytesOf(&arg)))
		_, err = s.file.controlVia(callIOVARanges, bytesOf(&arg), allowedAt, mem)
		var ranges []Range
		if err == nil {
			ranges, err = readRanges(mem.Bytes(), arg.NumIOVAs)
		}
		if err = errors.Join(err, mem.Close()); err == nil {
			return Limits{Ranges: ranges, Alignment: max(arg.Alignment, 1), Maps: -1}, nil
		}
		if !errors.Is(err, unix.EMSGSIZE) || int(arg.NumIOVAs) <= room || arg.NumIOVAs > maxInfo {
			return Limits{}, callIOVARanges.fail(iommuPath, err)
		}
		room = int(arg.NumIOVAs)
	}
}

func (s *ioas) mapDMA(m mapping) error {
	arg := iommufd.IOASMapArg{Flags: iommufd.MapFixedIOVA, IOASID: s.id, UserVA: m.addr(), Length: m.size(), IOVA: m.iova}
	arg.Size = uint32(len(bytesOf(&arg)))
	if m.prot&Read != 0 {
		arg.Flags |= iommufd.MapReadable
	}
	if m.prot&Write != 0 {
		arg.Flags |= iommufd.MapWriteable
	}
	if _, err := s.file.controlBytes(callIOASMap, bytesOf(&arg)); err != nil {
		return callIOASMap.failMap(IOMMUFD, m, err)
	}
	return nil
}

func (s *ioas) unmapDMA(iova, size uint64) error {
	arg := iommufd.IOASUnmapArg{IOASID: s.id, IOVA: iova, Length: size}
	arg.Size = uint32(len(bytesOf(&arg)))
	if _, err := s.file.controlBytes(callIOASUnmap, bytesOf(&arg)); err != nil {
		return callIOASUnmap.fail(fmt.Sprintf("IOVA %#x, %#x bytes", iova, size), err)
	}
	return nil
}

// hotReset needs no proof: the kernel knows which devices are bound to this iommufd.
func (s *ioas) hotReset(f file, r HotReset) error {
	for _, d := range r.Devices {
		if !d.Owned {
			return fmt.Errorf("hot reset: it would reset %s too, which this VM does not have: %w", d.Address, feature.ErrNotSupported)
		}
	}
	return issueHotReset(f, nil)
}

func (s *ioas) close() error {
	arg := iommufd.DestroyArg{ID: s.id}
	arg.Size = uint32(len(bytesOf(&arg)))
	var errs []error
	if err := s.unmapDMA(0, 1<<64-1); err != nil {
		errs = append(errs, err)
	}
	if _, err := s.file.controlBytes(callDestroy, bytesOf(&arg)); err != nil {
		errs = append(errs, callDestroy.fail("IOAS", err))
	}
	return errors.Join(append(errs, s.file.Close())...)
}
