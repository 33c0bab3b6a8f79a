// Package mounts has something to test that takes root: a file system in memory.
package mounts

import "syscall"

// Memory mounts a file system of at most size bytes at dir.
func Memory(dir, size string) error {
	return syscall.Mount("memory", dir, "tmpfs", 0, "size="+size)
}
