package agent

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// openNodes are device nodes below /dev that every user may open, as the rules of systemd-udevd have it: what they give has checks
// of its own. The kernel makes them for root alone.
var openNodes = map[string]bool{"fuse": true, "net/tun": true, "vsock": true, "vhost-net": true, "vhost-vsock": true, "kvm": true}

// uevent is what the kernel says of a device.
type uevent struct {
	action, path, subsystem, node string // path is below /sys, node below /dev
}

// parseUevent reads a message of NETLINK_KOBJECT_UEVENT: "ACTION@PATH", then KEY=VALUE, each with a zero behind it
// (lib/kobject_uevent.c).
func parseUevent(message []byte) uevent {
	var e uevent
	for field := range bytes.SplitSeq(message, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "ACTION":
			e.action = value
		case "DEVPATH":
			e.path = value
		case "SUBSYSTEM":
			e.subsystem = value
		case "DEVNAME":
			e.node = value
		}
	}
	return e
}

// nodes does what a machine's device manager would for the nodes that the kernel makes. root is "/" but in tests.
type nodes struct{ root string }

// open lets anybody open a node if that is safe.
func (n nodes) open(name string) error {
	const anybody = 0o666
	err := os.Chmod(filepath.Join(n.root, "dev", name), anybody)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// handle follows an event. A program in the guest may do the same.
func (n nodes) handle(e uevent) error {
	if e.action == "add" && openNodes[e.node] {
		return n.open(e.node)
	}
	if e.subsystem != "block" || !strings.HasPrefix(e.node, "dm-") {
		return nil
	}
	if e.action == "remove" {
		return n.unlink(e.node)
	}
	return n.link(e)
}

// link makes the link by which programs know a device of the device mapper. It has its name once it is set up.
func (n nodes) link(e uevent) error {
	text, err := os.ReadFile(filepath.Join(n.root, "sys", e.path, "dm", "name"))
	name := strings.TrimSpace(string(text))
	if errors.Is(err, fs.ErrNotExist) || err == nil && (name == "" || strings.Contains(name, "/")) {
		return nil
	}
	if err != nil {
		return err
	}
	dir := filepath.Join(n.root, "dev", "mapper")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := n.unlink(e.node); err != nil { // it may have had another name
		return err
	}
	err = os.Symlink("../"+e.node, filepath.Join(dir, name))
	if errors.Is(err, fs.ErrExist) { // a program was faster
		return nil
	}
	return err
}

// unlink removes the links to a device of the device mapper.
func (n nodes) unlink(node string) error {
	dir := filepath.Join(n.root, "dev", "mapper")
	links, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, l := range links {
		path := filepath.Join(dir, l.Name())
		if target, err := os.Readlink(path); err == nil && target == "../"+node {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}

// watchNodes looks after the nodes that are there, and those that come, until the machine ends.
func (g *guest) watchNodes() {
	n := nodes{"/"}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err == nil {
		const kernel = 1 // its group
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernel})
	}
	if err != nil {
		g.warn("listen for devices: %v", err)
		return
	}
	for name := range openNodes {
		if err := n.open(name); err != nil {
			g.warn("%v", err)
		}
	}
	go func() {
		message := make([]byte, 16<<10) // the kernel's have 2 KiB at the most
		for {
			size, _, err := unix.Recvfrom(fd, message, 0)
			if err == nil {
				_ = n.handle(parseUevent(message[:size])) // a node as the kernel made it still serves root
			} else if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
				return
			}
		}
	}()
}
