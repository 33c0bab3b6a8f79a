package hostpci

import "time"

// Space gives tests outside of the package configuration spaces: acs is the control
// register of ACS, negative for none.
func Space(port uint8, acs int) []byte {
	if acs < 0 {
		return space(portType(port), nil)
	}
	control := uint16(acs)
	return space(portType(port), &control)
}

// Reads returns how many files, links and folders were asked for.
func (h *Host) Reads() int64 { return h.tree.reads.Load() }

// WithPatience shortens the waits of a host.
func (h *Host) WithPatience(lock, notice time.Duration) *Host {
	h.lockPatience, h.noticeAfter = lock, notice
	return h
}

// WithClaimed makes the kernel keep one block device for itself.
func (h *Host) WithClaimed(device string) {
	h.claimed = func(path string) bool { return path == device }
}
