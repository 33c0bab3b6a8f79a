// Package modprobe is modprobe(8), and insmod, rmmod and lsmod, for guests whose root has none: the kernel's requests load
// modules (kernel.modprobe), and so do commands. It reads the same indexes and the same modprobe.d(5) as kmod's programs.
package modprobe
