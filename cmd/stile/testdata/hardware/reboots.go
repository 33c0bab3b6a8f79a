package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A guest's init: it checks an edu and a disk, on which it counts its boots, and reboots until there
// were as many as the word BOOTS=N on the kernel's command line says.

const (
	diskNode  = "/dev/nvme0n1"
	diskBlock = 4096
)

func initMain() {
	if err := initRun(); err != nil {
		fmt.Println("init:", err)
	}
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Println("power off:", err)
	time.Sleep(time.Hour)
}

func initRun() error {
	want, err := strconv.ParseUint(os.Getenv("BOOTS"), 10, 64)
	if err != nil {
		return err
	}
	for dir, fs := range map[string]string{"/dev": "devtmpfs", "/proc": "proc", "/sys": "sysfs"} {
		if err := errors.Join(os.MkdirAll(dir, 0o755), unix.Mount(fs, dir, fs, 0, "")); err != nil {
			return err
		}
	}
	dirs, err := find(os.Getenv("EDU"))
	if err != nil {
		return err
	}
	if err := edu(dirs[0]); err != nil {
		return fmt.Errorf("edu: %w", err)
	}
	boot, err := countBoot()
	if err != nil {
		return err
	}
	fmt.Println("init: boot", boot, "is fine")
	if boot == want {
		return nil
	}
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// countBoot adds 1 to the number in each block of the disk's first megabyte, all of which must have
// the same.
func countBoot() (uint64, error) {
	disk, err := openDisk()
	if err != nil {
		return 0, err
	}
	defer disk.Close()
	buf, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, err
	}
	if _, err := disk.ReadAt(buf, 0); err != nil {
		return 0, err
	}
	first := binary.LittleEndian.Uint64(buf)
	for off := 0; off < len(buf); off += diskBlock {
		if n := binary.LittleEndian.Uint64(buf[off:]); n != first {
			return 0, fmt.Errorf("the disk has %d at %#x, and %d at 0", n, off, first)
		}
		binary.LittleEndian.PutUint64(buf[off:], first+1)
	}
	_, err = disk.WriteAt(buf, 0)
	return first + 1, err
}

// openDisk waits for the disk.
func openDisk() (disk *os.File, err error) {
	err = await(func() bool {
		disk, err = os.OpenFile(diskNode, os.O_RDWR|unix.O_DIRECT|unix.O_SYNC, 0)
		return err == nil
	})
	return disk, err
}
