package guest

import (
	"fmt"
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

// ParseVsock reads CID[,path=PATH] or auto[,path=PATH].
func ParseVsock(text string) (*vmm.Vsock, error) {
	number, options, more := strings.Cut(text, ",")
	v := &vmm.Vsock{CID: autoCID}
	if number != "auto" {
		cid, err := strconv.ParseUint(number, 10, 64)
		if err != nil || cid < virtio.MinCID || cid > virtio.MaxCID {
			return nil, fmt.Errorf("--vsock %q: the guest's context ID is auto or %d to %d", text, virtio.MinCID, uint32(virtio.MaxCID))
		}
		v.CID = cid
	}
	if more {
		path, ok := strings.CutPrefix(options, "path=")
		if !ok || path == "" {
			return nil, fmt.Errorf("--vsock %q: option %q is unknown; there is path=", text, options)
		}
		v.Path = path
	}
	return v, nil
}

// VsockText returns what ParseVsock reads.
func VsockText(v *vmm.Vsock) string {
	text := strconv.FormatUint(v.CID, 10)
	if v.Path != "" {
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

// vsockOf returns the guest's socket device, at a path of the VM's own where none was chosen.
func (s Spec) vsockOf(id string) (*vmm.Vsock, error) {
	if s.Vsock == nil {
		return nil, nil
	}
	v := *s.Vsock
	if v.Path == "" {
		dir, err := control.Dir()
		if err != nil {
			return nil, err
		}
		v.Path = filepath.Join(dir, id+control.VsockSuffix)
	}
	return &v, nil
}
