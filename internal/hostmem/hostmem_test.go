package hostmem

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestSmallestGroup(t *testing.T) {
	for name, test := range map[string]struct {
		cgroup string            // of /proc/self
		files  map[string]string // below the mount point
		want   Limit
	}{
		"none": {"0::/a\n", nil, Limit{Bytes: math.MaxUint64}},
		"own": {"0::/a/b\n", map[string]string{"a/memory.max": "max\n", "a/b/memory.max": "4096\n"},
			Limit{4096, "/a/b", "memory.max"}},
		"above": {"0::/a/b\n", map[string]string{"a/memory.max": "4096\n", "a/b/memory.max": "8192\n"},
			Limit{4096, "/a", "memory.max"}},
		"container": {"0::/\n", map[string]string{"memory.max": "4096\n"}, Limit{4096, "/", "memory.max"}},
		"version 1": {"5:cpu:/x\n4:memory:/d/e\n0::/x\n",
			map[string]string{"memory/d/memory.limit_in_bytes": "4096\n", "memory/d/e/memory.limit_in_bytes": "9223372036854771712\n"},
			Limit{4096, "/d", "memory.limit_in_bytes"}},
		"out of the mount": {"0::/../x\n", map[string]string{"x/memory.max": "4096\n"}, Limit{4096, "/x", "memory.max"}},
		"damaged":          {"x\n0::\n", map[string]string{"memory.max": "many\n"}, Limit{Bytes: math.MaxUint64}},
	} {
		t.Run(name, func(t *testing.T) {
			proc, cgroups := t.TempDir(), t.TempDir()
			write(t, filepath.Join(proc, "cgroup"), test.cgroup)
			for file, text := range test.files {
				write(t, filepath.Join(cgroups, file), text)
			}
			if got := SmallestGroup(proc, cgroups); got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

func TestMax(t *testing.T) {
	l, err := Max()
	if err != nil || l.Bytes < 64<<20 {
		t.Errorf("%+v, %v", l, err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
