package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/kvm"
)

func TestDoubts(t *testing.T) {
	if text := doubts(kvm.Speed{Emulating: true, NanosPerInstruction: 700}, nil); !strings.Contains(text, "--on lab") {
		t.Errorf("of a KVM that emulates: %q", text)
	}
	if text := doubts(kvm.Speed{NanosPerInstruction: 1}, nil) + doubts(kvm.Speed{}, syscall.EBUSY); text != "" {
		t.Errorf("of others: %q", text)
	}
}

// TestPlaceFollowsProbe: what is not known of a KVM never leads to the lab, and nothing surprising happens
// in silence.
func TestPlaceFollowsProbe(t *testing.T) {
	fast, slow := kvm.Speed{NanosPerInstruction: 1}, kvm.Speed{Emulating: true, NanosPerInstruction: 700}
	for name, test := range map[string]struct {
		speed  kvm.Speed
		err    error
		place  Place
		notice []string // parts; nil for none
	}{
		"usable":       {fast, nil, OnHost, nil},
		"emulates":     {slow, nil, InLab, []string{"running in the lab", "700 ns"}},
		"missing":      {kvm.Speed{}, feature.Missing("KVM", "modprobe kvm_amd"), InLab, []string{"running in the lab", "modprobe kvm_amd"}},
		"probe failed": {kvm.Speed{}, fmt.Errorf("set system registers: %w", syscall.EINVAL), OnHost, []string{"on this host's KVM", "set system registers: invalid argument", "--on lab"}},
		"busy":         {kvm.Speed{}, fmt.Errorf("create VM: %w", syscall.EBUSY), OnHost, []string{"on this host's KVM", "busy", "--on lab"}},
		"no memory":    {kvm.Speed{}, syscall.ENOMEM, OnHost, []string{"on this host's KVM"}},
		"not opened":   {kvm.Speed{}, &fs.PathError{Op: "open", Path: kvm.Device, Err: syscall.EMFILE}, OnHost, []string{"on this host's KVM", kvm.Device}},
	} {
		place, notice, err := choose(test.speed, test.err)
		if err != nil || place != test.place || (notice == "") != (test.notice == nil) {
			t.Errorf("%s: place %v, notice %q, %v", name, place, notice, err)
		}
		for _, part := range test.notice {
			if !strings.Contains(notice, part) {
				t.Errorf("%s: %q lacks %q", name, notice, part)
			}
		}
	}
	forbidden := &fs.PathError{Op: "open", Path: kvm.Device, Err: syscall.EACCES}
	if _, _, err := choose(kvm.Speed{}, forbidden); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "--on lab") {
		t.Errorf("forbidden: %v", err)
	}
}
