package agent

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ModulesList names the kernel modules to load at the start, one path in the initramfs
// a line, in the order of their dependencies.
const ModulesList = "/modules.list"

// basicMounts are the kernel's own file systems, in order, with the modes and flags that systemd gives them. What the kernel does
// not have is left out.
var basicMounts = []struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
	optional               bool
}{
	{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", false},
	{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", false},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755", false},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666", true},
	{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", true},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755", false},
	{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", false},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", true},
	{"bpf", "/sys/fs/bpf", "bpf", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=0700", true},
	{"pstore", "/sys/fs/pstore", "pstore", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", true},
	{"fusectl", "/sys/fs/fuse/connections", "fusectl", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", true},
	{"securityfs", "/sys/kernel/security", "securityfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", true},
	{"configfs", "/sys/kernel/config", "configfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", true},
	{"mqueue", "/dev/mqueue", "mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", true},
	{"hugetlbfs", "/dev/hugepages", "hugetlbfs", unix.MS_NOSUID | unix.MS_NODEV, "", true},
	{"binfmt_misc", "/proc/sys/fs/binfmt_misc", "binfmt_misc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", true},
	{"debugfs", "/sys/kernel/debug", "debugfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", true},
	{"tracefs", "/sys/kernel/tracing", "tracefs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", true},
}

// carried are the mounts that move along into a new root.
var carried = []string{"/proc", "/sys", "/dev", "/run", "/tmp"}

// mountBasics mounts what the kernel has. A file system that it lacks is a warning.
func (g *guest) mountBasics() {
	for _, m := range basicMounts {
		os.Mkdir(m.target, 0o755)
		err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
		// The kernel may have mounted devtmpfs itself.
		if err != nil && !m.optional && !errors.Is(err, unix.EBUSY) {
			g.warn("mount %s: %v", m.target, err)
		}
	}
	for target, link := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		os.Symlink(link, target)
	}
}

// loadModules loads ModulesList and frees the files. A module that doesn't load is a
// warning: it may be built in, or for hardware that is not there.
func (g *guest) loadModules() {
	f, err := os.Open(ModulesList)
	if err != nil {
		return
	}
	defer f.Close()
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		g.warn("parameters of modules: %v", err)
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		path := strings.TrimSpace(lines.Text())
		if path == "" {
			continue
		}
		if filepath.Base(path) == "kvm.ko" && os.Getenv(EnvLab) == "1" {
			awaitClock()
		}
		if err := loadModule(path, moduleParams(string(cmdline), path)); err != nil && !errors.Is(err, unix.EEXIST) {
			g.warn("load module %s: %v", path, err)
			g.modules.failed(path, err)
		} else {
			g.modules.loaded++
		}
		os.Remove(path)
	}
}

const (
	clockSource   = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
	clockLimit    = 10 * time.Second
	clockInterval = 20 * time.Millisecond
)

// awaitClock waits until the kernel has measured its time-stamp counter for the second time, which takes some
// seconds. A KVM that starts before keeps the first frequency, fails to scale to it, and all of its guests have
// timers that fire a minute late; see kvm.VCPU.SetHostTSCKHz, which cures it for one VMM.
func awaitClock() {
	for end := time.Now().Add(clockLimit); time.Now().Before(end); time.Sleep(clockInterval) {
		name, err := os.ReadFile(clockSource)
		if err != nil || strings.TrimSpace(string(name)) == "tsc" {
			return
		}
	}
}

// moduleParams returns the parameters that the kernel's command line has for a module, as modprobe does: kvm_amd.nested=0 is
// nested=0 for kvm_amd.ko.
func moduleParams(cmdline, path string) string {
	underscored := strings.NewReplacer("-", "_")
	module := underscored.Replace(strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)))
	var params []string
	for word := range strings.FieldsSeq(cmdline) {
		name, param, ok := strings.Cut(word, ".")
		if ok && underscored.Replace(name) == module {
			params = append(params, param)
		}
	}
	return strings.Join(params, " ")
}

func loadModule(path, params string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), params, 0)
}

// upLoopback sets the loopback interface up, which gives it its addresses.
func upLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}
