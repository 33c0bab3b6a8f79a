// Package sys owns file descriptors and host memory mappings, and is the only
// package that calls ioctl and mmap.
//
// Every object here has one owner and an idempotent Close. A descriptor that is
// dropped without Close stays open: nothing is left to the garbage collector,
// because the order in which KVM and VFIO descriptors close matters.
package sys
