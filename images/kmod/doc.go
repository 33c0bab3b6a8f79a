// Package kmod reads kernel modules and their indexes, and makes the indexes: what depmod(8) does on the host, and what modprobe(8)
// looks things up in. Its files are those of the kmod project, whose programs read them, too.
//
// All of it takes foreign bytes: a damaged module or index is an error, within bounds of time and memory. Nothing here has state
// that is shared; an Index is for one goroutine at a time.
package kmod
