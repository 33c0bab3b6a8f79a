// Package control is how a running VM is watched and steered from other processes: each has
// a UNIX socket, named after its ID, that answers one JSON request per connection.
//
// A request and its reply are a line each. After the reply to a request that attaches
// (OpConsole, OpLog) the connection is a plain byte stream.
//
// Sockets have mode 0600 in a folder of mode 0700, so whoever can connect is the VM's owner
// or root. What comes over one is foreign bytes all the same: it is bounded in size, time and
// number.
package control
