package vfio

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMemlockCheck(t *testing.T) {
	const mib = 1 << 20
	for name, test := range map[string]struct {
		m       memlock
		backend Backend
		need    uint64
		want    string // "" if it may
	}{
		"enough":                 {memlock{limit: 64 * mib}, Legacy, 64 * mib, ""},
		"too little":             {memlock{limit: 8 * mib}, Legacy, 512 * mib, "ulimit -l 524288"},
		"systemd":                {memlock{limit: 8 * mib}, Legacy, 512 * mib, "LimitMEMLOCK=524288K"},
		"with what is locked":    {memlock{limit: 600 * mib, used: 100 * mib}, Legacy, 512 * mib, "ulimit -l 626688"},
		"iommufd counts by user": {memlock{limit: 600 * mib, used: 100 * mib}, IOMMUFD, 512 * mib, ""},
		"CAP_IPC_LOCK":           {memlock{limit: 8 * mib, exempt: true}, Legacy, 512 * mib, ""},
		"unlimited":              {memlock{limit: math.MaxUint64, used: mib}, Legacy, 512 * mib, ""},
		"more than there is":     {memlock{limit: mib}, Legacy, math.MaxUint64, "RLIMIT_MEMLOCK"},
	} {
		err := test.m.check(test.backend, test.need)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestReadMemlock(t *testing.T) {
	for name, test := range map[string]struct {
		status, ns string
		exempt     bool
		used       uint64
	}{
		"root":         {"VmLck:\t      64 kB\nCapEff:\t000001ffffffffff\n", initUserNS, true, 65536},
		"user":         {"VmLck:\t       0 kB\nCapEff:\t0000000000000000\n", initUserNS, false, 0},
		"in container": {"VmLck:\t       0 kB\nCapEff:\t000001ffffffffff\n", "user:[4026532000]", false, 0},
	} {
		proc, cgroups := t.TempDir(), t.TempDir()
		check(t, os.WriteFile(filepath.Join(proc, "status"), []byte(test.status), 0o644))
		check(t, os.Mkdir(filepath.Join(proc, "ns"), 0o755))
		check(t, os.Symlink(test.ns, filepath.Join(proc, "ns/user")))
		check(t, os.WriteFile(filepath.Join(proc, "cgroup"), []byte("1:cpu:/x\n0::/a/b/c\n"), 0o644))
		for dir, text := range map[string]string{"a": "1000000\n", "a/b": "500000\n", "a/b/c": "max\n"} {
			check(t, os.MkdirAll(filepath.Join(cgroups, dir), 0o755))
			check(t, os.WriteFile(filepath.Join(cgroups, dir, "memory.max"), []byte(text), 0o644))
		}
		m, err := readMemlock(proc)
		check(t, err)
		if m.exempt != test.exempt || m.used != test.used {
			t.Errorf("%s: %+v", name, m)
		}
		check(t, checkGroup(proc, cgroups, 500000))
		wantError(t, checkGroup(proc, cgroups, 500001), "/a/b may have 489 KiB", "MemoryMax=")
	}
	if _, err := readMemlock(t.TempDir()); err == nil {
		t.Error("no error without status")
	}
	check(t, CheckMemlock(Legacy, 4096))
	check(t, CheckMemoryGroup(4096))
}
