package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/stile-vmm/stile/devices/virtio"
	"github.com/stile-vmm/stile/internal/control"
	"github.com/stile-vmm/stile/vmm"
)

// autoCID is the context ID of a guest for which none is chosen. It means something to that guest alone, so all
// may have the same.
const autoCID = virtio.MinCID

// ParseVsock reads CID or auto, with ,path=PATH or ,host behind it.
func ParseVsock(text string) (*vmm.Vsock, error) {
	number, option, _ := strings.Cut(text, ",")
	v := &vmm.Vsock{CID: autoCID, Host: option == "host"}
	switch {
	case number == "auto" && v.Host:
		v.CID = 0 // one that is free
	case number != "auto":
		cid, err := strconv.ParseUint(number, 10, 64)
		if err != nil || cid < virtio.MinCID || cid > virtio.MaxCID {
			return nil, fmt.Errorf("--vsock %q: the guest's context ID is auto or %d to %d", text, virtio.MinCID, uint32(virtio.MaxCID))
		}
		v.CID = cid
	}
	path, ok := strings.CutPrefix(option, "path=")
	switch {
	case option == "" || v.Host:
	case !ok || path == "":
		return nil, fmt.Errorf("--vsock %q: option %q is unknown; there are path=PATH and host", text, option)
	default:
		v.Path = path
	}
	return v, nil
}

// VsockText returns what ParseVsock reads.
func VsockText(v *vmm.Vsock) string {
	text := strconv.FormatUint(v.CID, 10)
	switch {
	case v.Host && v.CID == 0:
		return "auto,host"
	case v.Host:
		text += ",host"
	case v.Path != "":
		text += ",path=" + v.Path
	}
	return text
}

// validateBalloon reports a balloon that can't be had.
func (s Spec) validateBalloon() error {
	if !s.Balloon || len(s.Devices) == 0 {
		return nil
	}
	return vmm.ErrBalloonPinned
}

// vsockOf returns the guest's socket device, at a path of the VM's own where it has to have one and none was chosen.
func (s Spec) vsockOf(id string, on Place) (*vmm.Vsock, error) {
	if s.Vsock == nil {
		return nil, nil
	}
	v := *s.Vsock
	if v.Host && on == InLab {
		return nil, errors.New("--vsock: a guest in the lab can't have this host's AF_VSOCK: leave \",host\" out, and the same ports are UNIX sockets")
	}
	if v.Path == "" && !v.Host {
		dir, err := control.Dir()
		if err != nil {
			return nil, err
		}
		v.Path = filepath.Join(dir, id+control.VsockSuffix)
	}
	return &v, checkVsockPath(v.Path)
}

// validateVsock reports a path where there can be no socket. In the nested host it is another's.
func (s Spec) validateVsock() error {
	if s.Vsock == nil || s.Vsock.Path == "" || Nested() {
		return nil
	}
	if _, err := os.Stat(filepath.Dir(s.Vsock.Path)); err != nil {
		return fmt.Errorf("--vsock: path=%s: %w", s.Vsock.Path, err)
	}
	return checkVsockPath(s.Vsock.Path)
}

func checkVsockPath(path string) error {
	if len(path) > maxVsockPath {
		return fmt.Errorf("--vsock: the path %s has %d bytes: it may have %d, because the kernel limits a socket's path to 107 and a port's number comes behind it; name a shorter one by path=",
			path, len(path), maxVsockPath)
	}
	return nil
}

// maxVsockPath bounds the path of a socket, in bytes: sockaddr_un has 108 with the NUL, and a port's socket is beside it.
const maxVsockPath = 107 - len("_4294967295")
