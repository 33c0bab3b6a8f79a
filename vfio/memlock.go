package vfio

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/hostmem"
)

// initUserNS is the inode of the first user namespace (PROC_USER_INIT_INO).
const initUserNS = "user:[4026531837]"

// memlock is what decides whether memory may be pinned.
type memlock struct {
	limit  uint64 // RLIMIT_MEMLOCK, bytes
	used   uint64 // bytes that count against it already
	exempt bool   // CAP_IPC_LOCK in the first user namespace
}

// CheckMemlock tells before anything is pinned whether need bytes may be. The VM's RAM counts,
// in whatever pages, BARs that are mapped for peers do not. The error says what to raise, and
// how.
func CheckMemlock(b Backend, need uint64) error {
	m, err := readMemlock("/proc/thread-self")
	if err != nil {
		return err
	}
	return m.check(b, need)
}

// check implements CheckMemlock. Groups count what the process has locked, iommufd what its
// user has pinned in all processes, which cannot be read.
func (m memlock) check(b Backend, need uint64) error {
	used, with := m.used, amount(m.used)+" are already"
	if b == IOMMUFD {
		used, with = 0, "for all processes of the user"
	}
	if m.exempt || m.limit == math.MaxUint64 || need <= m.limit && used <= m.limit-need {
		return nil
	}
	whole := kib(need) + kib(used)
	return fmt.Errorf("%s of memory must be pinned for DMA, and %s are allowed to be locked (RLIMIT_MEMLOCK; %s): "+
		"raise the limit with ulimit -l %d, LimitMEMLOCK=%dK in a systemd unit, or memlock in /etc/security/limits.conf, "+
		"or run with CAP_IPC_LOCK", amount(need), amount(m.limit), with, whole, whole)
}

// CheckMemoryGroup tells whether the process's control group may have need bytes of memory at
// all, as pinned memory is never swapped out. Pages of the hugetlb pool do not count.
func CheckMemoryGroup(need uint64) error {
	return checkGroup("/proc/self", "/sys/fs/cgroup", need)
}

func checkGroup(proc, cgroups string, need uint64) error {
	limit := hostmem.SmallestGroup(proc, cgroups)
	if limit.Group == "" || need <= limit.Bytes {
		return nil
	}
	return fmt.Errorf("%s of memory must be pinned for DMA, and the control group %s may have %s (%s): "+
		"raise it, or MemoryMax= of its systemd unit", amount(need), limit.Group, amount(limit.Bytes), limit.File)
}

// amount writes n bytes for people, rounded up.
func amount(n uint64) string {
	if n < 16<<20 {
		return fmt.Sprintf("%d KiB", kib(n))
	}
	return fmt.Sprintf("%d MiB", (kib(n)+1023)/1024)
}

// kib returns n bytes in KiB, rounded up.
func kib(n uint64) uint64 { return n>>10 + (n&1023+1023)>>10 }

// readMemlock reads the limits of the task whose folder is proc: capabilities are a thread's.
func readMemlock(proc string) (memlock, error) {
	var m memlock
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return m, fmt.Errorf("read RLIMIT_MEMLOCK: %w", err)
	}
	m.limit = l.Cur
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return m, err
	}
	locked, _ := strconv.ParseUint(strings.TrimSuffix(field(status, "VmLck"), " kB"), 10, 64)
	m.used = locked * 1024
	effective, _ := strconv.ParseUint(field(status, "CapEff"), 16, 64)
	// The kernel asks for the capability on the host, not in a container's user namespace.
	ns, err := os.Readlink(filepath.Join(proc, "ns/user"))
	m.exempt = effective&(1<<unix.CAP_IPC_LOCK) != 0 && (err != nil || ns == initUserNS)
	return m, nil
}

// field returns the value of a line "name: value".
func field(status []byte, name string) string {
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte(name+":")); ok {
			return string(bytes.TrimSpace(value))
		}
	}
	return ""
}
