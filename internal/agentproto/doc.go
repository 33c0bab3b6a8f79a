// Package agentproto is what the host and the agent inside a guest say to each other.
//
// The two ends share one reliable byte stream, a virtio-console port named PortName, and
// run yamux over it: the agent is yamux's server, the host its client.
//
//   - The agent opens the first stream, writes one Hello and closes it. The host sends
//     nothing before it has read the Hello, so nothing is lost when the guest opens its
//     end late. It is the only stream that the agent opens.
//   - The host opens one stream per request and writes one Request on it. The agent
//     answers with one or more Reply messages. Push and Pull carry raw bytes besides.
//   - A command has up to four streams: one whose Request is an Exec, for control, and
//     before it one per standard stream, each starting with an Attach. After the Attach
//     they carry raw bytes. One stream may be standard output and standard error together.
//   - A connection to an address inside the machine has two: one whose Request is a Dial,
//     which carries what the connection receives after the Reply, and before it one that
//     starts with an Attach and carries what the host sends.
//
// A message is a length (4 bytes, big-endian) and so many bytes of JSON, whose strings are bytes (package bytejson). Unknown JSON
// fields are ignored, so that a field may be added without a new Version.
//
// # Standard input
//
// The host leaves alone what a command does not read. Of its standard input, unless that is a terminal, it sends at most
// FirstInput bytes, in one write, and waits until the agent has written one byte on that stream, which says that the command has
// read them all. What follows is sent as the channel takes it. Exit tells how much the command has read in all.
//
// # Half-close
//
// Closing one's end of a stream says that no more bytes come. Against the direction of
// the data it means "no more bytes are wanted": the agent closes its end of stdin when the
// command has closed its standard input, the host closes its end of stdout or stderr when
// its writer has failed, which the command meets as a broken pipe.
//
// # Lab
//
// LabLine, Run and their parsers are the few lines that a machine saved before its
// first session speaks (stage 0). They precede yamux, and they don't change: a saved
// machine serves every later host.
package agentproto
