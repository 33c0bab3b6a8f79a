// Package kvm wraps Linux's KVM for x86-64: one file per kernel object. It holds no
// policy: what is at which address or port, and which GSI means what, is its user's.
//
// # Ownership
//
// Each object has one owner and an idempotent Close. Nothing is closed by the garbage
// collector. Close in this order, the reverse of making them:
//
//  1. stop each VCPU (Kick; its Run returns ExitInterrupted) and Close it on any goroutine
//     once Run has returned
//  2. detach ioeventfds and irqfds and close their eventfds; when the VM is closed at once
//     after, closing them is enough
//  3. VFIODevice, before the VFIO groups or devices that were added to it
//  4. VM, then unmap the memory behind its slots
//  5. System
//
// The kernel keeps a VM alive until its last vCPU, device and irqfd is gone; a different
// order leaks nothing but may keep the guest's memory for longer.
//
// # Order of construction
//
// All memory slots first, then CreateIRQChip, doorbells (AttachIOEventFD) last. Once there
// is an interrupt controller or an I/O bus, each slot change may wait for a grace period of
// the kernel: 7 to 8 ms instead of 0.1 on some hosts.
//
// A vCPU gets SetCPUID before any other state. Prepare may come once all is made, on the thread on
// which the vCPU is to run; where it fails with ErrFirstRun, the whole VM is made anew.
//
// # Concurrency
//
// Methods of System, VM and Routing may be called concurrently. A VCPU belongs to one
// goroutine, which Binds it to its thread; only Kick may be called from elsewhere.
//
// The layout of everything is Documentation/virt/kvm/api.rst's, in internal/uapi/kvm.
package kvm
