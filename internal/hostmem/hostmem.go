// Package hostmem tells how much memory this process may have.
package hostmem

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limit is the most memory that the machine or a control group allows.
type Limit struct {
	Bytes uint64
	// Group is the control group whose limit it is, as a path below the mount point of the
	// hierarchy; "" where the machine's RAM is the limit.
	Group string
	// File is the group's file that holds the limit, "" without a group.
	File string
}

// Max returns the smaller one of the machine's RAM and the smallest limit of the control groups
// that this process is in. Control groups that can't be read don't count.
func Max() (Limit, error) {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return Limit{}, fmt.Errorf("sysinfo: %w", err)
	}
	l := Limit{Bytes: uint64(si.Totalram) * uint64(si.Unit)}
	if group := SmallestGroup("/proc/self", "/sys/fs/cgroup"); group.Group != "" && group.Bytes < l.Bytes {
		return group, nil
	}
	return l, nil
}

// SmallestGroup returns the control group with the smallest limit of memory, of the group that the
// process is in and those above it. proc is the process's folder in procfs; cgroups is where
// control groups are mounted. Without any limit the Group is "" and Bytes the greatest number.
//
// Version 2 (Documentation/admin-guide/cgroup-v2.rst) has one hierarchy below cgroups; version 1
// has one for memory in the folder "memory". In a control group namespace, as of a container, the
// process's group is "/", and that group's files stand at the mount point.
func SmallestGroup(proc, cgroups string) Limit {
	l := Limit{Bytes: math.MaxUint64}
	text, err := os.ReadFile(filepath.Join(proc, "cgroup"))
	if err != nil {
		return l
	}
	for line := range strings.Lines(string(text)) {
		// hierarchy ID:controllers:path, see cgroups(7)
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		switch {
		case fields[0] == "0" && fields[1] == "":
			l = smaller(l, cgroups, fields[2], "memory.max")
		case fields[1] == "memory":
			l = smaller(l, filepath.Join(cgroups, "memory"), fields[2], "memory.limit_in_bytes")
		}
	}
	return l
}

// smaller looks for a smaller limit than l in the group at path and those above it.
func smaller(l Limit, mount, path, file string) Limit {
	for dir := filepath.Clean("/" + path); ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(mount, dir, file))
		if err == nil {
			// Without a limit version 2 says max, version 1 a number near 2^63.
			if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil && n < l.Bytes && n < math.MaxInt64>>12<<12 {
				l = Limit{Bytes: n, Group: dir, File: file}
			}
		}
		if dir == "/" {
			return l
		}
	}
}
