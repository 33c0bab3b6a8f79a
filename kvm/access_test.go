package kvm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stile-vmm/stile/internal/feature"
)

// place makes surroundings of files, given by their path and text, for a user with no rights but
// those of his groups.
func place(t *testing.T, files, env map[string]string) surroundings {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		check(t, os.MkdirAll(filepath.Dir(path), 0o700))
		check(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return surroundings{
		root: root, getenv: func(name string) string { return env[name] },
		uid: 4242, groups: []int{4343}, member: func(int) bool { return false },
	}
}

const (
	intel  = "flags\t\t: fpu vmx sse2\n"
	amd    = "flags\t\t: fpu svm sse2\n"
	loaded = "sys/class/misc/kvm"
)

func TestOpenSaysWhyKVMIsAbsent(t *testing.T) {
	docker, pod := map[string]string{"container": "docker"}, map[string]string{"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
	for name, test := range map[string]struct {
		files, env map[string]string
		want       string
		not        string
	}{
		"Intel":                    {map[string]string{"proc/cpuinfo": intel}, nil, "KVM's module: sudo modprobe kvm_intel", "--device"},
		"AMD":                      {map[string]string{"proc/cpuinfo": amd}, nil, "KVM's module: sudo modprobe kvm_amd", "--device"},
		"neither":                  {map[string]string{"proc/cpuinfo": "flags\t\t: fpu sse2\n"}, nil, "switched off in the firmware", "modprobe"},
		"container, loaded":        {map[string]string{"proc/cpuinfo": intel, loaded: "", "run/.containerenv": ""}, nil, "--device /dev/kvm", "modprobe"},
		"docker, loaded":           {map[string]string{"proc/cpuinfo": amd, loaded: "", ".dockerenv": ""}, nil, "--device /dev/kvm", "modprobe"},
		"pod, loaded":              {map[string]string{loaded: ""}, pod, "device plugin", "modprobe"},
		"container, not loaded":    {map[string]string{"proc/cpuinfo": amd}, docker, "host: sudo modprobe kvm_amd; then start the container with --device", ""},
		"chroot":                   {map[string]string{"proc/cpuinfo": amd, loaded: ""}, nil, "mknod -m 666 /dev/kvm c 10 232", "modprobe"},
		"container, nothing there": {nil, docker, "switched off in the firmware", "--device"},
	} {
		t.Run(name, func(t *testing.T) {
			where := place(t, test.files, test.env)
			_, err := open(filepath.Join(where.root, "dev/kvm"), where)
			if !errors.Is(err, feature.ErrNotSupported) || !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v: want ErrNotSupported and ErrNotExist", err)
			}
			if !strings.Contains(err.Error(), test.want) || test.not != "" && strings.Contains(err.Error(), test.not) {
				t.Errorf("%q: want %q and not %q", err, test.want, test.not)
			}
		})
	}
	if got := place(t, map[string]string{"proc/cpuinfo": intel, loaded: ""}, nil).absentRemedy(syscall.ENODEV); !strings.Contains(got, "modprobe kvm_intel") {
		t.Errorf("a node without a driver: %q", got)
	}
}

func TestForbiddenRemedy(t *testing.T) {
	const all = "CapEff:\t000001ffffffffff\n"
	lsm := func(list, label string) map[string]string {
		return map[string]string{"sys/kernel/security/lsm": list, "proc/self/attr/current": label}
	}
	job, container := map[string]string{"CI": "true"}, map[string]string{"container": "podman"}
	for name, test := range map[string]struct {
		cause      error
		mode       uint32
		files, env map[string]string
		groups     []int
		member     bool
		want, not  string
	}{
		"group":                    {syscall.EACCES, 0o660, nil, nil, nil, false, "usermod -aG", "cgroup"},
		"member since":             {syscall.EACCES, 0o660, nil, nil, nil, true, "log in again, or run it by sg", "usermod"},
		"root only":                {syscall.EACCES, 0o600, nil, nil, nil, false, "only root", "usermod"},
		"job":                      {syscall.EACCES, 0o660, nil, job, nil, false, "chmod 666 /dev/kvm", "log in"},
		"job, root only":           {syscall.EACCES, 0o600, nil, job, nil, false, `KERNEL=="kvm", MODE="0666"`, "log in"},
		"no job":                   {syscall.EACCES, 0o660, nil, map[string]string{"CI": "false"}, nil, false, "usermod", "udev"},
		"container, group":         {syscall.EACCES, 0o660, nil, container, nil, false, "--group-add 54321", "usermod"},
		"cgroup":                   {syscall.EPERM, 0o666, nil, nil, nil, false, "DeviceAllow=/dev/kvm rw", "usermod"},
		"cgroup, group":            {syscall.EPERM, 0o660, nil, nil, []int{54321}, false, "device cgroup", "usermod"},
		"cgroup of a container":    {syscall.EPERM, 0o666, map[string]string{".dockerenv": ""}, job, nil, false, "--device /dev/kvm", "chmod"},
		"SELinux":                  {syscall.EACCES, 0o666, lsm("lockdown,capability,selinux", "system_u:system_r:container_t:s0\x00"), nil, nil, false, `SELinux, as "system_u:system_r:container_t:s0", forbids`, "usermod"},
		"AppArmor":                 {syscall.EACCES, 0o666, lsm("capability,apparmor", "docker-default (enforce)\n"), container, nil, false, `AppArmor, as "docker-default (enforce)", forbids`, "--device"},
		"AppArmor, not told":       {syscall.EACCES, 0o666, lsm("", "docker-default (enforce)\n"), nil, nil, false, "AppArmor", ""},
		"another module":           {syscall.EACCES, 0o666, lsm("capability,smack", ""), nil, nil, false, "smack", ""},
		"mode fits by group":       {syscall.EACCES, 0o660, nil, job, []int{54321}, false, "a security module forbids", "chmod"},
		"root, refused":            {syscall.EACCES, 0o600, map[string]string{"proc/self/status": all}, job, nil, false, "a security module forbids", "chmod"},
		"root of a user namespace": {syscall.EACCES, 0o600, map[string]string{"proc/self/status": "CapEff:\t0000000000000000\n"}, nil, nil, false, "only root", "security"},
	} {
		t.Run(name, func(t *testing.T) {
			where := place(t, test.files, test.env)
			where.groups = append(where.groups, test.groups...)
			where.member = func(gid int) bool { return test.member && gid == 54321 }
			st := &syscall.Stat_t{Gid: 54321, Mode: test.mode}
			got := where.forbiddenRemedy(where.root, st, &fs.PathError{Op: "open", Path: Device, Err: test.cause})
			if !strings.Contains(got, test.want) || test.not != "" && strings.Contains(got, test.not) {
				t.Errorf("%q: want %q and not %q", got, test.want, test.not)
			}
		})
	}
}

func TestForbiddenIsAPermission(t *testing.T) {
	where := place(t, nil, nil)
	for _, name := range []string{"", "missing"} {
		err := where.forbidden(filepath.Join(where.root, name), &fs.PathError{Op: "open", Path: Device, Err: syscall.EACCES})
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), Device+": permission denied: ") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestModeAllows: owners that a user namespace does not know are out of reach of its root.
func TestModeAllows(t *testing.T) {
	where := place(t, map[string]string{"proc/self/status": "Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n"}, nil)
	for _, test := range []struct {
		uid, gid uint32
		mode     uint32
		want     bool
	}{
		{0, 0, 0o600, true}, {overflowID, overflowID, 0o660, false}, {overflowID, overflowID, 0o666, true}, {0, overflowID, 0o660, false},
	} {
		if got := where.modeAllows(&syscall.Stat_t{Uid: test.uid, Gid: test.gid, Mode: test.mode}); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
	plain := place(t, nil, nil)
	if !plain.modeAllows(&syscall.Stat_t{Mode: 0o600, Uid: 4242}) || plain.modeAllows(&syscall.Stat_t{Mode: 0o660, Uid: 1, Gid: 2}) ||
		!plain.modeAllows(&syscall.Stat_t{Mode: 0o060, Uid: 1, Gid: 4343}) {
		t.Error("owner, group and others are mixed up")
	}
}
