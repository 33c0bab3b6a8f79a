package vfio

import (
	"encoding/binary"

	"github.com/stile-vmm/stile/internal/uapi/vfio"
	"golang.org/x/sys/unix"
)

// deviceCall is an ioctl of a device's file, which a group or a character device gave.
func (f *fakeFile) deviceCall(c call, arg []byte) (int, error) {
	d := f.device
	var err error
	switch c {
	case callBind:
		a, _ := decode[vfio.DeviceBind](arg)
		if f.iommu != nil {
			return -1, unix.EINVAL
		}
		if d.busy > 0 {
			d.busy--
			return -1, unix.EAGAIN
		}
		f.iommu = f.kernel.files[int(a.IOMMUFD)]
		f.iommu.members++
	case callAttach:
		f.attached = true
	case callDetach:
		f.attached = false
	case callDeviceInfo:
		copy(arg, bytesOf(&vfio.DeviceInfo{ArgSize: uint32(len(arg)), Flags: d.flags, NumRegions: vfio.NumRegions, NumIRQs: vfio.NumIRQs}))
	case callRegionInfo:
		err = d.regionInfo(arg)
	case callIRQInfo:
		index := binary.NativeEndian.Uint32(arg[8:])
		info, ok := d.irqs[index]
		if !ok {
			return -1, unix.EINVAL
		}
		info.ArgSize, info.Index = uint32(len(arg)), index
		copy(arg, bytesOf(&info))
	case callSetIRQs:
		err = d.setIRQs(arg)
	case callHotResetInfo:
		err = d.hotResetInfo(arg)
	case callHotReset:
		d.resets++
	case callFeature:
		if binary.NativeEndian.Uint32(arg[4:])&vfio.FeatureMask != vfio.FeatureLowPowerEntry {
			err = unix.ENOTTY
		}
	default:
		f.kernel.t.Errorf("%s on %s", c.name, f.path)
	}
	if err != nil {
		return -1, err
	}
	return 0, nil
}

// checkToken does what vfio_pci_validate_vf_token does.
func (k *fakeKernel) checkToken(d *fakeDevice, token string) error {
	switch {
	case d.pf != nil && d.pf.token != token:
		return unix.EACCES
	case d.pf != nil:
		return nil
	case !d.sriov && token != "":
		return unix.EINVAL
	}
	for _, f := range k.files {
		if f.device != nil && f.device.pf == d && token != d.token {
			return unix.EACCES // VFs are in use
		}
	}
	if token != "" {
		d.token = token
	}
	return nil
}

func (d *fakeDevice) regionInfo(arg []byte) error {
	info := d.regions[binary.NativeEndian.Uint32(arg[8:])]
	if info == nil {
		return unix.EINVAL
	}
	n := len(info)
	if len(arg) < n {
		n = sizeOf[vfio.RegionInfo]() // capabilities do not fit, and are not there then
	}
	copy(arg, info[:n])
	binary.NativeEndian.PutUint32(arg, uint32(max(len(info), sizeOf[vfio.RegionInfo]())))
	return nil
}

func (d *fakeDevice) hotResetInfo(arg []byte) error {
	if d.hot == nil {
		return unix.ENODEV
	}
	if len(arg) < len(d.hot) {
		copy(arg, d.hot[:sizeOf[vfio.HotResetInfo]()])
		return unix.ENOSPC
	}
	copy(arg, d.hot)
	return nil
}

// setIRQs does what vfio_pci_set_irqs_ioctl does.
func (d *fakeDevice) setIRQs(arg []byte) error {
	s, _ := decode[vfio.IRQSet](arg)
	info := d.irqs[s.Index]
	if s.Start >= info.Count || s.Start+s.Count > info.Count {
		return unix.EINVAL
	}
	var fds []int
	if s.Flags&vfio.IRQSetDataEventFD != 0 {
		raw, err := readArray[int32](arg[:s.ArgSize], sizeOf[vfio.IRQSet](), s.Count)
		if err != nil {
			return unix.EINVAL
		}
		for _, fd := range raw {
			fds = append(fds, int(fd))
		}
	}
	if s.Index > vfio.MSIXIRQ {
		d.fds[s.Index] = fds
		return nil
	}
	if s.Flags&vfio.IRQSetActionTrigger == 0 {
		if s.Index != vfio.INTxIRQ {
			return unix.ENOTTY
		}
		return d.setINTx(s.Flags, fds)
	}
	if d.active >= 0 && d.active != int(s.Index) {
		return unix.EINVAL
	}
	if s.Count == 0 {
		if d.active < 0 {
			return unix.EINVAL
		}
		d.active, d.fds[s.Index], d.masked, d.unmask = -1, nil, false, -1
		return nil
	}
	for i, fd := range fds {
		vector := int(s.Start) + i
		if vector >= len(d.fds[s.Index]) {
			if d.active >= 0 && info.Flags&vfio.IRQNoResize != 0 && vector > 0 && i == 0 {
				return unix.EINVAL
			}
			grown := make([]int, vector+1)
			for j := range grown {
				grown[j] = -1
			}
			copy(grown, d.fds[s.Index])
			d.fds[s.Index] = grown
		}
		d.fds[s.Index][vector] = fd
	}
	d.active = int(s.Index)
	return nil
}

func (d *fakeDevice) setINTx(flags uint32, fds []int) error {
	switch {
	case d.active != vfio.INTxIRQ:
		return unix.EINVAL
	case flags&vfio.IRQSetDataEventFD != 0:
		d.unmask = fds[0]
	default:
		d.masked = flags&vfio.IRQSetActionMask != 0
	}
	return nil
}
