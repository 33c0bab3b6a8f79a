package kvm

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/feature"
)

// surroundings is what tells why /dev/kvm can't be opened, and what would help.
type surroundings struct {
	root   string // of the file system, "/" but in tests
	getenv func(string) string
	uid    int
	groups []int
	// member reports whether the user database has this user in a group.
	member func(gid int) bool
}

// here is where this process runs.
func here() surroundings {
	groups, _ := os.Getgroups() // one that is not known only leads to a remedy that is known already
	return surroundings{
		root: "/", getenv: os.Getenv, uid: os.Geteuid(), groups: append(groups, os.Getegid()), member: isMember,
	}
}

func isMember(gid int) bool {
	u, err := user.Current()
	if err != nil {
		return false
	}
	ids, err := u.GroupIds()
	return err == nil && slices.Contains(ids, strconv.Itoa(gid))
}

func (s surroundings) read(name string) []byte {
	text, _ := os.ReadFile(filepath.Join(s.root, name)) // what can't be read tells nothing
	return text
}

func (s surroundings) exists(name string) bool {
	_, err := os.Stat(filepath.Join(s.root, name))
	return err == nil
}

// container reports whether this is one, as the usual engines mark it.
func (s surroundings) container() bool {
	return s.exists(".dockerenv") || s.exists("run/.containerenv") || s.exists("run/systemd/container") ||
		s.getenv("container") != "" || s.getenv("KUBERNETES_SERVICE_HOST") != ""
}

// hostedJob reports whether this is a job of a CI service, whose user can't log in again.
func (s surroundings) hostedJob() bool {
	ci := s.getenv("CI")
	return ci != "" && ci != "false" && ci != "0"
}

// Ways to give KVM to those who have not got it.
const (
	deviceOption = "start the container with --device /dev/kvm (docker, podman), or with a device plugin (Kubernetes)"
	udevRule     = `sudo chmod 666 /dev/kvm; where that does not last, echo 'KERNEL=="kvm", MODE="0666", OPTIONS+="static_node=kvm"' | ` +
		`sudo tee /etc/udev/rules.d/99-kvm.rules && sudo udevadm control --reload && sudo udevadm trigger --name-match=kvm`
)

// absent explains why there is no KVM.
func (s surroundings) absent(cause error) error {
	return fmt.Errorf("KVM: %w: %w: %s", feature.ErrNotSupported, cause, s.absentRemedy(cause))
}

func (s surroundings) absentRemedy(cause error) string {
	if errors.Is(cause, fs.ErrNotExist) && s.exists("sys/class/misc/kvm") {
		if s.container() {
			return "KVM is loaded, but this container has no /dev/kvm: " + deviceOption
		}
		return "KVM is loaded, but this root has no /dev/kvm: mount the host's /dev in it, or sudo mknod -m 666 /dev/kvm c 10 232"
	}
	flags, module := s.read("proc/cpuinfo"), ""
	switch {
	case bytes.Contains(flags, []byte(" vmx")):
		module = "kvm_intel"
	case bytes.Contains(flags, []byte(" svm")):
		module = "kvm_amd"
	default:
		return "this CPU offers no virtualisation, or it is switched off in the firmware or the host of this virtual machine"
	}
	if s.container() {
		return "load KVM's module on the container's host: sudo modprobe " + module + "; then " + deviceOption
	}
	return "load KVM's module: sudo modprobe " + module
}

// forbidden explains why this process may not open path.
func (s surroundings) forbidden(path string, cause error) error {
	var st syscall.Stat_t
	// One that can't be looked at is taken for root's alone.
	_ = syscall.Stat(path, &st)
	return fmt.Errorf("%w: %s", cause, s.forbiddenRemedy(path, &st, cause))
}

func (s surroundings) forbiddenRemedy(path string, st *syscall.Stat_t, cause error) string {
	switch {
	case errors.Is(cause, syscall.EPERM): // modes and security modules answer EACCES
		return s.cgroupRemedy()
	case s.modeAllows(st):
		return s.moduleRemedy(path)
	case s.hostedJob():
		return udevRule
	case st.Gid == 0 || st.Mode&0o060 != 0o060:
		return "only root may use it here: run as root, or have the administrator give it a group"
	case s.container():
		return fmt.Sprintf("start the container with --group-add %d, or rootless with --group-add keep-groups (podman)", st.Gid)
	}
	return s.groupRemedy(int(st.Gid))
}

// cgroupRemedy is for a device that the cgroup of this process may not have.
func (s surroundings) cgroupRemedy() string {
	if s.container() {
		return "the device cgroup of this container forbids it, whatever the mode: " + deviceOption
	}
	return "the device cgroup of this process forbids it, whatever the mode: for a systemd unit set DeviceAllow=/dev/kvm rw and no PrivateDevices="
}

// moduleRemedy is for a mode that allows what was refused.
func (s surroundings) moduleRemedy(path string) string {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) == nil && st.Flags&unix.ST_NODEV != 0 {
		return "its file system is mounted with nodev: mount " + filepath.Dir(path) + " without"
	}
	module, option := "a security module", "see the kernel's log (sudo dmesg | grep -i denied)"
	loaded := strings.Split(strings.TrimSpace(string(s.read("sys/kernel/security/lsm"))), ",")
	label := strings.Trim(string(s.read("proc/self/attr/current")), "\n\x00 ")
	switch {
	case slices.Contains(loaded, "selinux") || s.exists("sys/fs/selinux/enforce"):
		module = "SELinux"
		option = "see sudo ausearch -m avc -c stile; start a container with --security-opt label=disable"
	case slices.Contains(loaded, "apparmor") || strings.HasSuffix(label, "(enforce)"):
		module = "AppArmor"
		option += "; start a container with --security-opt apparmor=unconfined"
	case len(loaded) > 0 && loaded[0] != "":
		module = "a security module (" + strings.Join(loaded, ", ") + ")"
	}
	if label != "" {
		module += ", as " + strconv.Quote(label) + ","
	}
	return fmt.Sprintf("the mode allows it, and %s forbids it: %s", module, option)
}

// groupRemedy is for a device that a group may use.
func (s surroundings) groupRemedy(gid int) string {
	name := strconv.Itoa(gid)
	if group, err := user.LookupGroupId(name); err == nil {
		name = group.Name
	}
	if s.member(gid) {
		return fmt.Sprintf("you are in group %s, but this session began before: log in again, or run it by sg %s -c '...'", name, name)
	}
	return fmt.Sprintf("add yourself to group %s: sudo usermod -aG %s $USER, then log in again", name, name)
}

// modeAllows reports whether this process may read and write by mode, owner and group alone.
func (s surroundings) modeAllows(st *syscall.Stat_t) bool {
	switch {
	case s.overrides(st):
		return true
	case s.uid == int(st.Uid):
		return st.Mode&0o600 == 0o600
	case slices.Contains(s.groups, int(st.Gid)):
		return st.Mode&0o060 == 0o060
	}
	return st.Mode&0o006 == 0o006
}

// overflowID stands for owners and groups that a user namespace does not have.
const overflowID = 65534

// overrides reports whether modes do not count for this process: it has CAP_DAC_OVERRIDE, for a file
// whose owner and group its user namespace has.
func (s surroundings) overrides(st *syscall.Stat_t) bool {
	if st.Uid == overflowID || st.Gid == overflowID {
		return false
	}
	_, rest, _ := strings.Cut(string(s.read("proc/self/status")), "CapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	caps, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	return err == nil && caps>>unix.CAP_DAC_OVERRIDE&1 != 0
}
