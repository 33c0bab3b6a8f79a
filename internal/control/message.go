package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// maxMessage bounds a request and a reply, in bytes with the newline. A command line is the
// longest thing in one, and the kernel's limit for it is larger: Info cuts it.
const maxMessage = 64 << 10

// Op says what a request wants.
type Op string

const (
	OpInfo     Op = "info"     // Reply.Info
	OpShutdown Op = "shutdown" // the guest powers itself off in order
	OpReboot   Op = "reboot"   // the guest reboots
	OpKill     Op = "kill"     // the VM ends at once
	OpBalloon  Op = "balloon"  // Size bytes are taken from the guest
	OpResize   Op = "resize"   // the disk Disk gets Size bytes
	OpConsole  Op = "console"  // attach to the console: its latest output, what follows, and input
	OpLog      Op = "log"      // its output alone
	// OpAccept waits for a guest in the nested host to connect to a vsock port of the host, and says in
	// Reply.Port which. The client then writes a byte to accept the connection, which follows.
	OpAccept Op = "accept"
)

// Request is one request.
type Request struct {
	Op   Op     `json:"op"`
	Size uint64 `json:"size,omitempty"` // bytes
	Disk string `json:"disk,omitempty"`
	// Shrink lets OpResize make a disk smaller.
	Shrink bool `json:"shrink,omitempty"`
}

// Validate reports what no VM can do.
func (r *Request) Validate() error {
	switch r.Op {
	case OpInfo, OpShutdown, OpReboot, OpKill, OpBalloon, OpConsole, OpLog, OpAccept:
		return nil
	case OpResize:
		if r.Disk == "" || r.Size == 0 {
			return errors.New("resize: a disk and its new size are needed")
		}
		return nil
	}
	return fmt.Errorf("operation %q is unknown", r.Op)
}

// Reply answers a Request.
type Reply struct {
	Error string `json:"error,omitempty"` // why it can't be, "" if it is done
	Info  *Info  `json:"info,omitempty"`
	Port  uint32 `json:"port,omitempty"`
}

// State is what a VM is doing.
type State string

const (
	Starting State = "starting" // its agent is not ready yet
	Running  State = "running"
	Stopping State = "stopping" // it was asked to end
	Silent   State = "silent"   // it does not answer
)

// Info is what is known of a VM.
type Info struct {
	ID      string    `json:"id"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	State   State     `json:"state"`
	On      string    `json:"on"`     // host or lab
	Kernel  string    `json:"kernel"` // its release once that is known, else its path, "" for the default one
	CPUs    int       `json:"cpus"`
	Memory  uint64    `json:"memory"`            // bytes
	Command []string  `json:"command,omitempty"` // none: the kernel's console is on a terminal
	Devices []string  `json:"devices,omitempty"` // of the host
	Log     string    `json:"log,omitempty"`     // path of the console's log
	Vsock   *Vsock    `json:"vsock,omitempty"`
	Balloon *Balloon  `json:"balloon,omitempty"`
	Disks   []Disk    `json:"disks,omitempty"` // in their order, once there is a VM
}

// Disk is a disk of a VM.
type Disk struct {
	Path   string `json:"path"`
	Serial string `json:"serial,omitempty"`
	Size   int64  `json:"size"`   // bytes, as the guest sees it
	Writes string `json:"writes"` // what becomes of them: "kept", "refused", or "dropped" at the end
}

// Vsock is a VM's vsock device.
type Vsock struct {
	CID  uint64 `json:"cid"`
	Path string `json:"path,omitempty"` // of the UNIX socket that stands for the host's side; none: the host's AF_VSOCK
}

// Balloon is the state of a VM's balloon, in bytes.
type Balloon struct {
	Target uint64 `json:"target"` // what the guest was asked to give
	Actual uint64 `json:"actual"` // what it has given
	// Reported is what the guest gave back by itself, because it had it free.
	Reported uint64 `json:"reported"`
}

// trim cuts what is too long for a message.
func (i Info) trim() Info {
	const most = 4096
	room := most
	for n, arg := range i.Command {
		if room -= len(arg); room < 0 {
			i.Command = append(append([]string(nil), i.Command[:n]...), "…")
			break
		}
	}
	const longest = 256
	i.Disks = slices.Clone(i.Disks)
	for n := range i.Disks {
		if d := &i.Disks[n]; len(d.Path) > longest {
			d.Path = "…" + d.Path[len(d.Path)-longest:]
		}
	}
	return i
}

// writeMessage writes m as one line.
func writeMessage(w io.Writer, m any) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(text) >= maxMessage {
		return fmt.Errorf("message of %d bytes: at most %d", len(text), maxMessage)
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// readMessage reads one line of r into m, and no byte more: a stream may follow.
func readMessage(r io.Reader, m any) error {
	var line bytes.Buffer
	var b [1]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return err
		}
		if b[0] == '\n' {
			break
		}
		if line.Len() == maxMessage-1 {
			return fmt.Errorf("a message is longer than %d bytes", maxMessage)
		}
		line.WriteByte(b[0])
	}
	d := json.NewDecoder(&line)
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return fmt.Errorf("message: %w", err)
	}
	if d.More() {
		return errors.New("message: more than one on a line")
	}
	return nil
}
