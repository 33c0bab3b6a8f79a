package main

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// lie speaks to the host in the agent's place, as the word LIAR=… on the kernel's command line says.
func lie(how string) error {
	port, err := openPort()
	if err != nil {
		return err
	}
	if how == "garbage" {
		_, err := io.CopyN(port, rand.Reader, 1<<20)
		return err
	}
	mux, err := yamux.Server(port, agentproto.MuxConfig())
	if err != nil {
		return err
	}
	hello, err := mux.OpenStream()
	if err == nil {
		err = agentproto.WriteMessage(hello, agentproto.MaxReply, &agentproto.Hello{Version: agentproto.Version, Kernel: "a lie"})
	}
	if err != nil || hello.Close() != nil {
		return err
	}
	for {
		stream, err := mux.AcceptStream()
		if err != nil {
			return err
		}
		req, err := agentproto.ReadRequest(stream)
		if err != nil {
			return err
		}
		switch {
		case how == "silent":
		case how == "length":
			_, err = io.WriteString(stream, "\x7f\xff\xff\xff{")
		case req.Setup != nil:
			err = agentproto.WriteMessage(stream, agentproto.MaxReply, &agentproto.Reply{})
		case req.Exec == nil:
		case how == "flood":
			return flood(port, stream.StreamID())
		case how == "close":
			err = agentproto.WriteMessage(stream, agentproto.MaxReply, &agentproto.Reply{Started: &agentproto.Started{PID: 1}})
			if err == nil {
				return port.Close()
			}
		}
		if err != nil {
			return err
		}
	}
}

// flood sends one frame of data for a stream, larger than any window, and does not stop at its end.
func flood(port io.Writer, stream uint32) error {
	header := make([]byte, 12) // version, data, flags, stream, length
	binary.BigEndian.PutUint32(header[4:], stream)
	binary.BigEndian.PutUint32(header[8:], 1<<30)
	_, err := port.Write(header)
	for data := make([]byte, 1<<20); err == nil; {
		_, err = port.Write(data)
	}
	return err
}

// openPort opens the agent's channel.
func openPort() (*os.File, error) {
	for _, fs := range []struct{ kind, at string }{{"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(fs.at, 0o755); err != nil {
			return nil, err
		}
		if err := syscall.Mount(fs.kind, fs.at, fs.kind, 0, ""); err != nil && err != syscall.EBUSY {
			return nil, fmt.Errorf("mount %s: %w", fs.at, err)
		}
	}
	for range 100 {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err == nil && strings.TrimSpace(string(text)) == agentproto.PortName {
				return os.OpenFile(filepath.Join("/dev", filepath.Base(filepath.Dir(name))), os.O_RDWR, 0)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil, os.ErrNotExist
}
