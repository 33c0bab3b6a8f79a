package kvm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stile-vmm/stile/internal/feature"
	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

func TestOpenRefusesWhatIsNoKVM(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kvm")
	check(t, os.WriteFile(path, nil, 0o600))
	_, err := open(path, here())
	if !errors.Is(err, syscall.ENOTTY) || !strings.Contains(err.Error(), "KVM_GET_API_VERSION") {
		t.Errorf("got %v", err)
	}
}

func TestSystem(t *testing.T) {
	s := newSystem(t)
	check(t, s.Require(uapi.CapUserMemory, uapi.CapIRQFD, uapi.CapIOEventFD, uapi.CapIRQRouting, uapi.CapImmediateExit))
	err := s.Require(Capability(9999))
	if !errors.Is(err, feature.ErrNotSupported) || !strings.Contains(err.Error(), "9999") {
		t.Errorf("unknown capability: %v", err)
	}
	if n, limit := s.RecommendedVCPUs(), s.MaxVCPUs(); n < 1 || limit < n {
		t.Errorf("recommended %d vCPUs, at most %d", n, limit)
	}
	if n := s.VCPUMmapSize(); n < 4096 || n%4096 != 0 {
		t.Errorf("mmap size %d", n)
	}
	check(t, s.Close())
	check(t, s.Close())
	if _, err := s.CreateVM(); !errors.Is(err, syscall.EBADF) {
		t.Errorf("CreateVM after Close: %v", err)
	}
}

// lacking is a KVM without some capabilities.
type lacking struct {
	linux
	caps []Capability
}

func (k lacking) checkExtension(fd *sys.FD, c Capability) (int, error) {
	if slices.Contains(k.caps, c) {
		return 0, nil
	}
	return k.linux.checkExtension(fd, c)
}

// TestRequireMachine checks that a KVM without interrupt controllers is reported before a machine fails with
// ENOTTY, and by the kernel's option.
func TestRequireMachine(t *testing.T) {
	s := newSystem(t)
	check(t, s.RequireMachine())
	for capability, want := range map[Capability]string{
		uapi.CapPIT2:          "CONFIG_KVM_IOAPIC=y",
		uapi.CapImmediateExit: "newer kernel",
	} {
		s.kernel = lacking{caps: []Capability{capability}}
		if err := s.RequireMachine(); !errors.Is(err, feature.ErrNotSupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("without %v: %v, want %q", capability, err, want)
		}
	}
}
