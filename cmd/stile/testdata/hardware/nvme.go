package main

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/stile-vmm/stile/internal/sys"
	"golang.org/x/sys/unix"
)

// NVMe's Virtualization Management (NVM Express Base 2.0, 5.34), through Linux's passthrough of admin commands
// (linux/nvme_ioctl.h).
const (
	ioctlAdmin   = 0xc0484e41
	adminSize    = 72
	adminCDW10   = 40
	adminCDW11   = 44
	opVirtual    = 0x1c
	primaryTakes = 1 // flexible resources of the primary controller
	assign       = 8 // to a secondary controller
	online       = 9
	queues       = 0
	vectors      = 1
)

// secondary gives the first virtual function of an nvme two queues and an interrupt, and switches it on. The physical
// function's driver has to let go of what it has of them in between.
func secondary(dir string) error {
	controllers, err := os.ReadDir(dir + "/nvme")
	if err != nil || len(controllers) != 1 {
		return fmt.Errorf("%d controllers, %w", len(controllers), err)
	}
	controller := controllers[0].Name()
	f, err := sys.Open("/dev/"+controller, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, kind := range []uint32{vectors, queues} {
		if err := manage(f, 0, kind, primaryTakes, 0); err != nil {
			return err
		}
	}
	if err := os.WriteFile(dir+"/nvme/"+controller+"/reset_controller", []byte("1"), 0); err != nil {
		return err
	}
	for _, file := range []struct{ name, text string }{{"sriov_drivers_autoprobe", "0"}, {"sriov_numvfs", "1"}} {
		if err := os.WriteFile(dir+"/"+file.name, []byte(file.text), 0); err != nil {
			return err
		}
	}
	for _, step := range [][3]uint32{{vectors, assign, 1}, {queues, assign, 2}, {queues, online, 0}} {
		if err := manage(f, 1, step[0], step[1], step[2]); err != nil {
			return err
		}
	}
	return nil
}

// manage sends a command about n resources of a kind and a controller.
func manage(f *sys.FD, controller, kind, action, n uint32) error {
	cmd := make([]byte, adminSize)
	cmd[0] = opVirtual
	binary.LittleEndian.PutUint32(cmd[adminCDW10:], controller<<16|kind<<8|action)
	binary.LittleEndian.PutUint32(cmd[adminCDW11:], n)
	status, err := sys.IoctlBytes(f, ioctlAdmin, cmd)
	if err != nil || status != 0 {
		return fmt.Errorf("controller %d, resource %d, action %d, number %d: status %#x, %w", controller, kind, action, n, status, err)
	}
	return nil
}
