package session

import (
	"bytes"
	"os"
	"strconv"
)

// umask returns this process's file mode creation mask, nil where it is not known. (proc_pid_status(5), since 4.7: umask(2) can't tell it
// without setting it.)
func umask() *uint32 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	_, rest, ok := bytes.Cut(status, []byte("\nUmask:"))
	line, _, _ := bytes.Cut(rest, []byte{'\n'})
	mask, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 8, 12)
	if !ok || err != nil {
		return nil
	}
	m := uint32(mask) & 0o777
	return &m
}
