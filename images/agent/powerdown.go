package agent

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/mountinfo"
)

const (
	// killGrace is how long killed processes may take to let go of what they had open. One that waits for a device may take for ever.
	killGrace = 2 * time.Second
	// unmountGrace is how long file systems may stay busy: the kernel lets go of dead processes' mounts in its own time.
	unmountGrace = 2 * time.Second
	// emergencyGrace is how long the kernel may take to make every file system read-only.
	emergencyGrace = 5 * time.Second
	// retryInterval is between two looks at what can't be waited for.
	retryInterval = 20 * time.Millisecond
)

// powerDown ends the machine: it kills every process, writes out and unmounts the file
// systems, and asks the kernel. It doesn't return.
func (g *guest) powerDown(reboot bool) {
	unix.Kill(-1, unix.SIGKILL)
	awaitDead(time.Now().Add(killGrace))
	unix.Sync()
	letGo(kernelMounts{}, time.Now().Add(unmountGrace))
	if !reboot {
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		say("this machine can't power off: resetting it instead")
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	unix.Reboot(unix.LINUX_REBOOT_CMD_HALT)
	for { // PID 1 must not exit
		time.Sleep(time.Hour)
	}
}

// awaitDead returns when no process but this one is left.
func awaitDead(deadline time.Time) {
	for time.Now().Before(deadline) && anyAlive() {
		time.Sleep(retryInterval)
	}
}

func anyAlive() bool {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	for _, e := range entries {
		if name := e.Name(); name[0] < '0' || name[0] > '9' || name == "1" {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err == nil && alive(stat) {
			return true
		}
	}
	return false
}

// alive tells from a process's /proc/PID/stat whether it may still have files open: kernel threads and zombies have none (proc(5)).
func alive(stat []byte) bool {
	const kernelThread = 0x00200000 // PF_KTHREAD (include/linux/sched.h)
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const state, flags = 0, 6
	if len(fields) <= flags {
		return false
	}
	bits, _ := strconv.ParseUint(string(fields[flags]), 10, 64) // 0 if it is no number
	return !bytes.ContainsAny(fields[state], "ZX") && bits&kernelThread == 0
}

// mounts are the mounts of a machine that is about to end.
type mounts interface {
	list() []mount // in the order in which they were made
	unmount(point string) error
	makeReadOnly(point string) error
	held() bool // a disk that can be written to is in use
	emergency() // makes every file system read-only, wherever it is mounted and whoever has files open
}

// letGo leaves file systems as an unmount does, for their next user: what the command has left mounted, also below what it has
// mounted elsewhere, in other mount namespaces or with files open that nobody closes.
func letGo(m mounts, deadline time.Time) {
	var busy []mount
	for all := false; ; all = true {
		busy = busy[:0]
		list := m.list()
		for i := len(list) - 1; i >= 0; i-- {
			if at := list[i]; at.stays() || !all && at.pseudo() {
				continue
			} else if err := m.unmount(at.point); err != nil && !errors.Is(err, unix.EINVAL) && !at.pseudo() {
				busy = append(busy, at)
			}
		}
		if len(busy) == 0 || !time.Now().Before(deadline) {
			break
		}
		time.Sleep(retryInterval)
	}
	for _, at := range busy {
		_ = m.makeReadOnly(at.point) // refused where files are open: then the disk is held
	}
	_ = m.makeReadOnly("/")
	if m.held() {
		m.emergency()
	}
}

// mount is one of them.
type mount struct{ point, fstype string }

// stays tells of the mounts that this process works with, and that hold nothing of a disk.
func (m mount) stays() bool {
	switch m.point {
	case "/", "/proc", "/sys", "/dev", "/run":
		return true
	}
	return false
}

// pseudo tells of file systems that keep nothing. They are in the way of an unmount only where they are mounted in another one.
func (m mount) pseudo() bool {
	switch m.fstype {
	case "proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "ramfs", "cgroup", "cgroup2", "mqueue", "hugetlbfs", "debugfs", "tracefs",
		"securityfs", "configfs", "pstore", "bpf", "binfmt_misc", "fusectl", "efivarfs", "nsfs", "rpc_pipefs", "autofs":
		return true
	}
	return false
}

func parseMounts(text string) []mount {
	var list []mount
	for _, m := range mountinfo.Parse(text) {
		list = append(list, mount{m.Path(), m.Type})
	}
	return list
}

// kernelMounts are the mounts of this machine.
type kernelMounts struct{}

func (kernelMounts) list() []mount {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		say("what is mounted: %v", err)
	}
	return parseMounts(string(text))
}

func (kernelMounts) unmount(point string) error { return unix.Unmount(point, unix.UMOUNT_NOFOLLOW) }

func (kernelMounts) makeReadOnly(point string) error {
	return unix.Mount("", point, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// held asks the kernel, which lets nobody have a disk for itself that is part of something.
func (kernelMounts) held() bool {
	disks, err := os.ReadDir("/sys/class/block")
	if err != nil {
		return false
	}
	for _, d := range disks {
		if ro, err := os.ReadFile("/sys/class/block/" + d.Name() + "/ro"); err == nil && strings.TrimSpace(string(ro)) != "0" {
			continue
		}
		fd, err := unix.Open("/dev/"+strings.ReplaceAll(d.Name(), "!", "/"), unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		} else if errors.Is(err, unix.EBUSY) {
			return true
		}
	}
	return false
}

// emergency has the kernel do it (Documentation/admin-guide/sysrq.rst), and waits for its word that it has.
func (kernelMounts) emergency() {
	log, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(log)
		_, err = unix.Seek(log, 0, unix.SEEK_END)
	}
	if err == nil {
		err = os.WriteFile("/proc/sysrq-trigger", []byte("u"), 0)
	}
	if err != nil {
		say("make all file systems read-only: %v", err)
		return
	}
	line := make([]byte, 8<<10) // a record's bound (kernel/printk/printk.c)
	for deadline := time.Now().Add(emergencyGrace); time.Now().Before(deadline); {
		n, err := unix.Read(log, line)
		switch {
		case err == nil && bytes.Contains(line[:n], []byte("Emergency Remount complete")):
			return
		case errors.Is(err, unix.EAGAIN):
			time.Sleep(retryInterval)
		case err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EPIPE): // EPIPE: records were lost
			return
		}
	}
}
