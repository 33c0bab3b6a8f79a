package mdev_test

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/hostpci/hosttest"
	"github.com/stile-vmm/stile/mdev"
)

func TestWrapAndUnwrap(t *testing.T) {
	tree, k, h := newHost(t)
	w, err := h.Wrap(bdf(t, nic), mdev.WrapOptions{UUID: uuidA})
	check(t, err)
	wantWrapped(t, tree, h, nic, uuidA)
	if w.UUID != uuidA || w.From != "e1000e" || w.Group.ID != 3 {
		t.Errorf("wrapped %+v", w)
	}
	if others := w.Others(); len(others) != 1 || others[0].Name != sibling || w.Group.Viability.Viable {
		t.Errorf("others %+v, group %+v", others, w.Group)
	}
	wraps := len(k.writes)
	_, err = h.Wrap(bdf(t, nic), mdev.WrapOptions{})
	wantError(t, err, "is wrapped as "+uuidA+" already")
	_, err = h.Wrap(bdf(t, disk), mdev.WrapOptions{UUID: uuidA})
	wantError(t, err, uuidA+" is a mediated device of "+nic+" already")
	if len(k.writes) != wraps {
		t.Errorf("what was refused wrote %v", k.writes[wraps:])
	}
	_, err = h.Wrap(bdf(t, disk), mdev.WrapOptions{UUID: uuidB})
	check(t, err)
	u, err := h.Unwrap("03:00.0", mdev.UnwrapOptions{})
	check(t, err)
	if u.Driver != "e1000e" || !slices.Equal(u.Devices, []string{uuidA}) {
		t.Errorf("unwrapped %+v", u)
	}
	wantWrapped(t, tree, h, disk, uuidB)
	_, err = h.Unwrap(uuidB, mdev.UnwrapOptions{})
	check(t, err)
	wantUnwrapped(t, tree, h, disk, "nvme")
	wantUnwrapped(t, tree, h, nic, "e1000e")
	_, err = h.Unwrap(nic, mdev.UnwrapOptions{})
	wantError(t, err, nic+" is not wrapped")
}

func TestWrapRefuses(t *testing.T) {
	tree, k, h := newHost(t)
	tree.Add(hosttest.Function{Address: "0000:09:00.0", Driver: "e1000e"})
	tree.Interface(sibling, "eth0", "0x1003")
	for name, test := range map[string]struct{ address, uuid, want string }{
		"bridge":   {bridge, "", "is a bridge"},
		"no group": {"0000:09:00.0", "", "has no IOMMU group"},
		"absent":   {"0000:0a:00.0", "", "no PCI function"},
		"in use":   {sibling, "", "in use on this host"},
		"bad UUID": {nic, "nonsense", "is no UUID"},
	} {
		_, err := h.Wrap(bdf(t, test.address), mdev.WrapOptions{UUID: test.uuid, Driver: func() error {
			t.Errorf("%s: the module was loaded", name)
			return nil
		}})
		wantError(t, err, test.want)
	}
	if len(k.writes) > 0 {
		t.Errorf("writes %v", k.writes)
	}
	tree.Remove("/sys/bus/pci/drivers/" + hostpci.DonorDriver)
	_, err := h.Wrap(bdf(t, nic), mdev.WrapOptions{Driver: func() error { return errors.New("no headers") }})
	wantError(t, err, "wrap "+nic+": no headers")
	wantUnwrapped(t, tree, h, nic, "e1000e")
	_, err = h.Wrap(bdf(t, nic), mdev.WrapOptions{Driver: func() error {
		tree.Driver(hostpci.DonorDriver)
		return nil
	}})
	check(t, err)
}

// TestFailsAnywhere has each write of a wrap fail: all is as before.
func TestFailsAnywhere(t *testing.T) {
	for fails := range 4 {
		tree, k, h := newHost(t)
		k.before = func(n int, _ hostpci.Write) error {
			if n == fails {
				return unix.EIO
			}
			return nil
		}
		if _, err := h.Wrap(bdf(t, nic), mdev.WrapOptions{UUID: uuidA}); err == nil {
			t.Errorf("write %d failed unnoticed; writes %v", fails, k.writes)
		}
		wantUnwrapped(t, tree, h, nic, "e1000e")
		_, err := h.Wrap(bdf(t, nic), mdev.WrapOptions{UUID: uuidA})
		check(t, err)
	}
}

// TestUndoFails has a wrap fail and its undoing, too: the note stays, and the next call of Recover undoes the rest.
func TestUndoFails(t *testing.T) {
	tree, k, h := newHost(t)
	broken := true
	k.before = func(n int, _ hostpci.Write) error {
		if broken && n >= 3 {
			return unix.EIO
		}
		return nil
	}
	_, err := h.Wrap(bdf(t, nic), mdev.WrapOptions{UUID: uuidA})
	wantError(t, err, "wrap "+nic)
	if stale := h.Stale(); len(stale) != 1 || stale[0] != bdf(t, nic) {
		t.Errorf("stale %v", stale)
	}
	_, err = h.Wrap(bdf(t, nic), mdev.WrapOptions{UUID: uuidB})
	wantError(t, err, "half wrapped")
	broken = false
	check(t, h.Recover(nil))
	wantUnwrapped(t, tree, h, nic, "e1000e")
}

// TestUnwrapFails has each write of an unwrap fail; once the cause is gone another try succeeds.
func TestUnwrapFails(t *testing.T) {
	for fails := range 4 {
		tree, k, h := newHost(t)
		_, err := h.Wrap(bdf(t, nic), mdev.WrapOptions{UUID: uuidA})
		check(t, err)
		first := len(k.writes)
		k.before = func(n int, _ hostpci.Write) error {
			if n == first+fails {
				return unix.EIO
			}
			return nil
		}
		_, err = h.Unwrap(nic, mdev.UnwrapOptions{})
		wantError(t, err, "unwrap "+nic)
		if stale := h.Stale(); len(stale) > 0 {
			t.Errorf("write %d: stale %v", fails, stale)
		}
		_, err = h.Unwrap(nic, mdev.UnwrapOptions{})
		check(t, err)
		wantUnwrapped(t, tree, h, nic, "e1000e")
	}
}

// TestKilledAnywhere: a process is killed before or after any write of a wrap and of the unwrap after it. A copy of the
// tree as it was then, without the process, is put right.
func TestKilledAnywhere(t *testing.T) {
	tree, k, h := newHost(t)
	var copies []*hosttest.Tree
	snap := func(int, hostpci.Write) error {
		copies = append(copies, tree.Copy())
		return nil
	}
	k.before, k.after = snap, snap
	_, err := h.Wrap(bdf(t, nic), mdev.WrapOptions{UUID: uuidA})
	check(t, err)
	_, err = h.Unwrap(uuidA, mdev.UnwrapOptions{})
	check(t, err)
	if len(copies) != 2*len(k.writes) || len(k.writes) != 8 {
		t.Fatalf("%d copies, writes %v", len(copies), k.writes)
	}
	for i, after := range copies {
		after.Remove("/proc/4242")
		survivor := newKernel(t, after).host()
		if stale := survivor.Stale(); len(stale) != 1 {
			t.Errorf("copy %d: stale %v", i, stale)
		}
		var told []string
		if err := survivor.Recover(func(text string) { told = append(told, text) }); err != nil || len(told) != 1 {
			t.Errorf("copy %d: %v, told %q", i, err, told)
		}
		wantUnwrapped(t, after, survivor, nic, "e1000e")
	}
}

// TestKilledEarly: a process was killed when it had made its note and not written it, or not all of it.
func TestKilledEarly(t *testing.T) {
	for _, text := range []string{"", `{"devices":["83b8`} {
		tree, k, h := newHost(t)
		tree.Write("/run/stile/mdev/"+nic, text)
		check(t, h.Recover(nil))
		wantUnwrapped(t, tree, h, nic, "e1000e")
		if len(k.writes) > 0 {
			t.Errorf("writes %v", k.writes)
		}
	}
}

// TestKilledWhileHeld: what was left is in use by now. It is not touched before that ends.
func TestKilledWhileHeld(t *testing.T) {
	tree, _, h := newHost(t)
	_, err := h.Wrap(bdf(t, disk), mdev.WrapOptions{UUID: uuidA})
	check(t, err)
	text, err := json.Marshal(map[string]any{"devices": []string{uuidA}, "bound": true})
	check(t, err)
	tree.Write("/run/stile/mdev/"+disk, string(text))
	tree.Process(99, 5, "vmm", "/dev/vfio/1")
	wantError(t, h.Recover(nil), "undo what a killed stile left of "+disk, "process 99 (vmm)")
	_, err = h.Unwrap(disk, mdev.UnwrapOptions{})
	var use *mdev.InUseError
	if !errors.As(err, &use) || use.Group != 1 || use.Device != uuidA {
		t.Errorf("unwrap: %v", err)
	}
	tree.Remove("/proc/99")
	check(t, h.Recover(nil))
	wantUnwrapped(t, tree, h, disk, "nvme")
}

// TestUnplugged: the function went while it was wrapped.
func TestUnplugged(t *testing.T) {
	tree, k, h := newHost(t)
	_, err := h.Wrap(bdf(t, nic), mdev.WrapOptions{UUID: uuidA})
	check(t, err)
	check(t, k.remove(uuidA))
	tree.Unplug(nic)
	tree.Write("/run/stile/mdev/"+nic, `{"devices":["`+uuidA+`"],"bound":true}`)
	check(t, h.Recover(nil))
	if stale := h.Stale(); len(stale) > 0 {
		t.Errorf("stale %v", stale)
	}
}

// TestOneAtATime: two processes don't wrap one function at once.
func TestOneAtATime(t *testing.T) {
	tree, k, h := newHost(t)
	k.before = func(n int, _ hostpci.Write) error {
		if n == 0 {
			_, err := newKernel(t, tree).host().Wrap(bdf(t, nic), mdev.WrapOptions{UUID: uuidB})
			wantError(t, err, "another stile is wrapping or unwrapping it")
			if stale := h.Stale(); len(stale) > 0 {
				t.Errorf("stale %v", stale)
			}
		}
		return nil
	}
	_, err := h.Wrap(bdf(t, nic), mdev.WrapOptions{UUID: uuidA})
	check(t, err)
	wantWrapped(t, tree, h, nic, uuidA)
}

func TestUnwrapForeign(t *testing.T) {
	tree, k, h := newHost(t)
	_, err := h.Wrap(bdf(t, nic), mdev.WrapOptions{UUID: uuidA})
	check(t, err)
	check(t, os.Remove(tree.Path("/run/stile/bindings.json")))
	_, err = h.Unwrap(nic, mdev.UnwrapOptions{})
	wantError(t, err, "was not bound to vfio-mdev-pci by stile", "--force")
	if !k.there(uuidA) {
		t.Error("the device was removed all the same")
	}
	_, err = h.Unwrap(nic, mdev.UnwrapOptions{Force: true})
	check(t, err)
	wantUnwrapped(t, tree, h, nic, "e1000e")
}

func TestUnwrapEmulated(t *testing.T) {
	tree, _, h := newHost(t)
	tree.Group(9, "vfio-noiommu", "")
	tree.Mediated(uuidB, "mtty", "mtty", 9)
	_, err := h.Unwrap(uuidB, mdev.UnwrapOptions{})
	wantError(t, err, "is no wrapped PCI function", "stile mdev remove "+uuidB)
	devices, err := h.Devices()
	check(t, err)
	if len(devices) != 1 || !devices[0].Emulated || devices[0].ParentGroup || devices[0].Wrapped {
		t.Errorf("devices %+v", devices)
	}
}
