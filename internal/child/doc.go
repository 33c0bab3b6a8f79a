// Package child runs programs that end with this process, however that ends, and takes along what they have started.
//
// A child leads a process group of its own, so that a terminal's signals are for this process alone. Three things keep
// anything of the group from staying:
//
//   - The child gets SIGKILL when the thread ends that started it (prctl(2), PR_SET_PDEATHSIG). That is the child alone.
//   - The group gets SIGKILL when the leash breaks: a pipe whose read end the group holds, and whose write end is open in
//     this process only. The read end signals the group when the last writer is gone (fcntl(2), F_SETOWN with a
//     group, F_SETSIG, O_ASYNC), so the kernel does it also after a SIGKILL of this process. A wrapper script that doesn't
//     exec thus takes the program along that it runs.
//   - Waiting is bounded: what has left the group and still holds the child's output keeps nobody waiting.
//
// A process that has left the group, as daemons do, stays.
package child
