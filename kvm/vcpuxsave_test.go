package kvm

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stile-vmm/stile/internal/sys"
	uapi "github.com/stile-vmm/stile/internal/uapi/kvm"
)

// tiled is a KVM whose guests may have AMX. The kernel's part of their state is a page here all
// the same, and stays.
type tiled struct {
	linux
	size  int
	asked int
}

func (k *tiled) permitTiles() error {
	k.asked++
	return syscall.EBUSY
}

func (k *tiled) checkExtension(fd *sys.FD, c Capability) (int, error) {
	if c == uapi.CapXSave2 {
		return k.size, nil
	}
	return k.linux.checkExtension(fd, c)
}

// TestXSaveIsWhole: the state is as long as KVM says, which reads beyond what it is given if that is
// shorter.
func TestXSaveIsWhole(t *testing.T) {
	s := newSystem(t)
	k := &tiled{}
	s.kernel = k
	c := newGuestOn(t, s, false).unbound(0)
	for size, want := range map[int]int{0: 4096, 4096: 4096, 11008: 11008} {
		k.size = size
		x, err := c.XSave()
		check(t, err)
		if len(x) != want {
			t.Errorf("%d bytes where KVM says %d, want %d", len(x), size, want)
		}
		x[xmm(1)], x[xstateBV] = byte(len(x)>>8), x[xstateBV]|2
		check(t, c.SetXSave(x))
		got, err := c.XSave()
		check(t, err)
		if got[xmm(1)] != x[xmm(1)] {
			t.Errorf("xmm1 is %#x, want %#x", got[xmm(1)], x[xmm(1)])
		}
		if err := c.SetXSave(x[:want-1]); err == nil || !strings.Contains(err.Error(), "bytes, want") {
			t.Errorf("a state that is too short: %v", err)
		}
	}
}

// TestOpenAsksForTiles: before any vCPU, and a refusal changes nothing.
func TestOpenAsksForTiles(t *testing.T) {
	s := newSystem(t)
	k := &tiled{}
	s.kernel = k
	check(t, s.init())
	if k.asked != 1 {
		t.Errorf("asked %d times", k.asked)
	}
}

// TestGuestCPUIDKeepsTiles: AMX that KVM offers reaches the guest, which switches it on itself.
func TestGuestCPUIDKeepsTiles(t *testing.T) {
	const amx = 1<<22 | 1<<24 | 1<<25
	host := []CPUIDEntry{
		leaf(0, 0, 0xd, 0, 0, 0), leaf(leafFeatures, 0, 0, 0, 1<<bitXSave, 0),
		leaf(leafExtFeatures, 0, 0, 0, 0, amx),
		leaf(leafXSave, 0, needAMX|7, 11008, 11008, 0), leaf(leafXSave, 1, 0, 0, 0, 0),
		leaf(leafXSave, 2, 256, 576, 0, 0), leaf(leafXSave, 17, 64, 2752, 2, 0), leaf(leafXSave, 18, 8192, 2816, 6, 0),
	}
	got := GuestCPUID(host, CPUIDOptions{})
	if e := must(t, got, leafExtFeatures, 0); e.Edx&amx != amx {
		t.Errorf("leaf 7 EDX %#x", e.Edx)
	}
	if e := must(t, got, leafXSave, 0); e.Eax != needAMX|7 || e.Ecx != 11008 {
		t.Errorf("leaf 0xd %+v", e)
	}
	if xcr0 := initialXCR0(got); xcr0 != 7 {
		t.Errorf("initial XCR0 %#x, want 7", xcr0)
	}
}
