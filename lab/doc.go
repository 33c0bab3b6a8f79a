// Package lab runs a nested host: a Linux machine under QEMU's TCG, which emulates what
// the real host may lack (SVM, so that there is a /dev/kvm). It boots once; its state
// is saved, and every run resumes it in a fraction of a second.
//
// The machine, "L1", runs the default guest kernel with stile's agent as its /init. A
// resumed L1 forgets everything when it ends. It sees the host's files below a
// copy-on-write overlay, reads them with the rights of the user who runs QEMU, and can
// change none; it has no network. QEMU itself is found, never bundled, runs without
// privileges, in its seccomp sandbox where the build has one, and dies with its parent.
//
// # How the state is kept
//
// L1's memory is a file, ram.img. While the machine is being saved QEMU maps it shared;
// a run maps it privately, so that any number of runs use it at once and none changes
// it. QEMU's capability x-ignore-shared leaves memory out of the migration stream, so
// what is left, the devices' state, is below a megabyte. See Store for files and locks.
//
// A saved state fits one machine only, and QEMU doesn't always notice another: the
// folder's name is a hash of all that makes up the machine (Machine, the QEMU binary,
// the kernel, the processor that TCG's time stamps come from).
//
// # Order of closing
//
// Host.Close kills QEMU, waits for its end and its output, and ends the session last: the agent
// would spend time on an orderly power off of a machine that forgets all anyway.
package lab
