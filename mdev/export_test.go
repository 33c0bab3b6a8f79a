package mdev

import "time"

// WithPatience returns a host that tells at once, or later, what takes long.
func (h *Host) WithPatience(notice time.Duration) *Host {
	with := *h
	with.noticeAfter = notice
	return &with
}
