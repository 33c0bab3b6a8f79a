// Package share serves a folder of the host as 9P2000.L, the protocol of Linux's v9fs.
//
// A [Share] is the folder, a [Session] one guest's conversation about it. A session takes one
// message at a time from a [Call]: the request lies in the caller's buffers (guest memory), the
// response is written to the caller's buffers. File data moves between host file and those
// buffers in one system call and is copied nowhere else; every other message is copied once
// before it is looked at, because the guest could change it meanwhile. [Session.Serve] does the
// same over a byte stream.
//
// # What the guest can reach
//
// Names are resolved one component at a time, relative to a descriptor of their directory, and
// symbolic links are never followed: the guest gets their text. A name holds no slash and is
// neither "." nor "..", so no request can leave the folder. Where a path of several components
// has to be opened again (see below), openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS
// does it, or on kernels without it one openat(2) with O_NOFOLLOW per component. File systems
// mounted within the folder are part of it, but for those that show the kernel and not files
// (procfs, sysfs, cgroupfs and the like): their mount points appear as empty directories, on
// which the guest mounts its own. Devices, FIFOs and sockets are visible and cannot be opened;
// a file's type is checked on a descriptor that was opened with O_PATH, which has no side
// effects, and that very inode is opened for reading and writing, through /proc/self/fd.
// Permissions are those of the process: its EACCES reaches the guest. Owners and modes are
// shown as the host has them. Of a device node that the guest makes, the host gets an empty
// regular file; the share alone knows what it stands for.
//
// # What a guest can cost
//
// The guest decides how many fids it keeps: Linux holds one for each cached directory entry. A
// fid is therefore a name within its parent and the identity (device, inode) found there, and
// holds no descriptor. Descriptors are opened when needed, kept for the most recently used, and
// checked against the identity: a name that has come to mean another file is ESTALE. Fids,
// descriptors, open files and extended attributes under way have limits ([Limits]); beyond them
// requests fail with EMFILE.
//
// # Identity
//
// A QID's path is the inode number on the folder's own file system, so the guest sees the
// host's numbers; on others the file system's index is in its upper bits. It is the same for
// all sessions of a Share. A QID's version follows the times of last change and is never 0,
// which Linux takes for "do not cache".
//
// # The protocol
//
// Messages are those of 9P2000.L as Linux's fs/9p and net/9p use them (include/net/9p/9p.h),
// without authentication, Tremove and Trename, in whose place v9fs uses Tunlinkat and
// Trenameat. Messages are parsed here, because the Go library that has them (hugelgupf/p9,
// which the tests use as client) turns each failing Txattrwalk into EINVAL, so that Linux
// refuses to execute programs; keeps a record of each name ever seen for the server's life; can
// be brought to wait for itself by Tflush; and copies file data twice.
package share
