// Package qmp is a client of the QEMU Machine Protocol (QEMU's docs/interop/qmp-spec):
// newline-terminated JSON objects over a stream, commands answered in order, events
// in between.
//
// It knows no command by name and holds no process: the caller owns the connection's
// other end.
package qmp
