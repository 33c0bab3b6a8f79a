package agent

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

const (
	portsDir = "/sys/class/virtio-ports"

	// The port is looked for at intervals that grow from the first to the last.
	firstLook = time.Millisecond
	lastLook  = 20 * time.Millisecond
	// lookNotice is when the console is told that there is no port yet.
	lookNotice = 20 * time.Second
)

// port is the guest's end of the channel. While the host's end is not open, its Read
// waits; once bytes have come, the host's end closing is the end of file.
type port struct {
	*os.File
	heard bool
}

func newPort(fd int) *port { return &port{File: os.NewFile(uintptr(fd), agentproto.PortName)} }

// Read implements io.Reader. Only one goroutine may call it.
func (p *port) Read(b []byte) (int, error) {
	for {
		n, err := p.File.Read(b)
		if n > 0 {
			p.heard = true
		}
		if err != io.EOF || p.heard {
			return n, err
		}
		time.Sleep(lastLook) // the driver reports a port without a host as ended
	}
}

// openPort waits for the port's device and opens it. Non-blocking: in a blocking write,
// the driver would spin until the host has taken the bytes.
func openPort(g *guest) (*port, error) {
	said := false
	begin := time.Now()
	for wait := firstLook; ; wait = min(2*wait, lastLook) {
		device, err := findPort(portsDir)
		if err == nil {
			fd, err := unix.Open(device, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err == nil {
				return newPort(fd), nil
			}
			if err != unix.ENOENT { // devtmpfs may lag behind sysfs
				return nil, fmt.Errorf("open %s, the channel to the host: %w", device, err)
			}
		}
		if !said && time.Since(begin) > lookNotice {
			said = true
			say("still no virtio port named %s; warnings so far: %s", agentproto.PortName, strings.Join(g.warnings, "; "))
		}
		time.Sleep(wait)
	}
}

// findPort returns the device of the port named agentproto.PortName.
func findPort(dir string) (string, error) {
	ports, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, p := range ports {
		name, err := os.ReadFile(filepath.Join(dir, p.Name(), "name"))
		if err == nil && strings.TrimSpace(string(name)) == agentproto.PortName {
			return filepath.Join("/dev", p.Name()), nil
		}
	}
	return "", os.ErrNotExist
}
