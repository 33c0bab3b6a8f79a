// Package vhost is the kernel's vhost-vsock: a virtio socket device whose queues the kernel serves, and which makes the guest
// reachable by AF_VSOCK for every program of the host (linux/vhost.h, drivers/vhost/vsock.c).
package vhost

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/vhost"
)

const (
	node = "/dev/vhost-vsock"
	// minCID is the first context ID that is nobody's.
	minCID = 3
	// autoCIDs is how many context IDs are tried where none is chosen.
	autoCIDs = 4096
	running  = 1
	stopped  = 0
)

// Region is guest memory. Start is guest-physical, Addr this process's address; Size is in bytes.
type Region struct {
	Start, Size uint64
	Addr        uintptr
}

// Ring is a split virtqueue in guest memory. Its memory stays mapped until Stop returns.
type Ring struct {
	Size              uint16 // descriptors
	Desc, Avail, Used []byte
	Kick, Call        int // eventfds: the driver's doorbell and its interrupt; -1 for no interrupt
}

// Vsock is an open vhost-vsock device. Its methods have one caller at a time.
type Vsock struct {
	fd       *sys.FD
	cid      uint64
	features uint64
}

// OpenVsock opens the device for a guest with that context ID, or with one that is free if cid is 0. No two guests of a host have the
// same. It takes write access to /dev/vhost-vsock. The caller closes it.
func OpenVsock(cid uint64) (v *Vsock, err error) {
	fd, err := sys.Open(node, unix.O_RDWR)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("vsock: %w: the host's kernel has no vhost-vsock; run modprobe vhost_vsock as root", err)
	case errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("vsock: %w: you need access to it, as the group of /dev/kvm often has", err)
	case err != nil:
		return nil, fmt.Errorf("vsock: %w", err)
	}
	v = &Vsock{fd: fd}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.Close())
			v = nil
		}
	}()
	// The kernel makes a thread for it, and fails with ENOMEM if a signal is pending.
	err = sys.WithoutSignals(func() error {
		_, err := fd.Ioctl(uapi.SetOwner, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("vsock: VHOST_SET_OWNER: %w", err)
	}
	if _, err := sys.IoctlPtr(fd, uapi.GetFeatures, &v.features); err != nil {
		return nil, fmt.Errorf("vsock: VHOST_GET_FEATURES: %w", err)
	}
	return v, v.choose(cid)
}

// choose takes a context ID.
func (v *Vsock) choose(cid uint64) error {
	first, last := cid, cid
	if cid == 0 {
		first, last = minCID, minCID+autoCIDs
	}
	for v.cid = first; v.cid <= last; v.cid++ {
		_, err := sys.IoctlPtr(v.fd, uapi.VsockSetGuestCID, &v.cid)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return fmt.Errorf("vsock: VHOST_VSOCK_SET_GUEST_CID %d: %w", v.cid, err)
		}
	}
	if cid == 0 {
		return fmt.Errorf("vsock: context IDs %d to %d all belong to other VMs of this host", first, last)
	}
	return fmt.Errorf("vsock: context ID %d belongs to another VM of this host; auto takes one that is free", cid)
}

// CID returns the guest's context ID.
func (v *Vsock) CID() uint64 { return v.cid }

// Features returns the feature bits that the kernel has: the device's, and the ring's.
func (v *Vsock) Features() uint64 { return v.features }

// Start lets the kernel serve the two queues for data. features are the driver's.
func (v *Vsock) Start(features uint64, memory []Region, rings [2]Ring) error {
	features &= v.features
	if _, err := sys.IoctlPtr(v.fd, uapi.SetFeatures, &features); err != nil {
		return fmt.Errorf("VHOST_SET_FEATURES %#x: %w", features, err)
	}
	table := new(bytes.Buffer)
	_ = binary.Write(table, binary.NativeEndian, uapi.Memory{Regions: uint32(len(memory))}) // to memory
	for _, r := range memory {
		_ = binary.Write(table, binary.NativeEndian, uapi.MemoryRegion{GuestPhysAddr: r.Start, MemorySize: r.Size, UserspaceAddr: uint64(r.Addr)})
	}
	if _, err := sys.IoctlBytes(v.fd, uapi.SetMemTable, table.Bytes()); err != nil {
		return fmt.Errorf("VHOST_SET_MEM_TABLE of %d regions: %w", len(memory), err)
	}
	for i := range rings {
		if err := v.setRing(uint32(i), &rings[i]); err != nil {
			return err
		}
	}
	return v.run(running)
}

func (v *Vsock) setRing(i uint32, r *Ring) error {
	num := uapi.VringState{Index: i, Num: uint32(r.Size)}
	base := uapi.VringState{Index: i}
	addr := uapi.VringAddr{Index: i, Desc: uint64(sys.Addr(r.Desc)), Avail: uint64(sys.Addr(r.Avail)), Used: uint64(sys.Addr(r.Used))}
	kick, call := uapi.VringFile{Index: i, FD: int32(r.Kick)}, uapi.VringFile{Index: i, FD: int32(r.Call)}
	for _, step := range []struct {
		name string
		do   func() (int, error)
	}{
		{"NUM", func() (int, error) { return sys.IoctlPtr(v.fd, uapi.SetVringNum, &num) }},
		{"BASE", func() (int, error) { return sys.IoctlPtr(v.fd, uapi.SetVringBase, &base) }},
		{"ADDR", func() (int, error) { return sys.IoctlPtr(v.fd, uapi.SetVringAddr, &addr) }},
		{"KICK", func() (int, error) { return sys.IoctlPtr(v.fd, uapi.SetVringKick, &kick) }},
		{"CALL", func() (int, error) { return sys.IoctlPtr(v.fd, uapi.SetVringCall, &call) }},
	} {
		if _, err := step.do(); err != nil {
			return fmt.Errorf("VHOST_SET_VRING_%s of queue %d: %w", step.name, i, err)
		}
	}
	return nil
}

// Stop ends what Start began. When it returns, the kernel touches neither rings nor buffers.
func (v *Vsock) Stop() error { return v.run(stopped) }

func (v *Vsock) run(state int32) error {
	if _, err := sys.IoctlPtr(v.fd, uapi.VsockSetRunning, &state); err != nil {
		return fmt.Errorf("VHOST_VSOCK_SET_RUNNING %d: %w", state, err)
	}
	return nil
}

// Close ends the device and its connections.
func (v *Vsock) Close() error { return v.fd.Close() }
