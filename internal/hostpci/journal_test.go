package hostpci_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/hostpci/hosttest"
)

func TestPlansTouchNothing(t *testing.T) {
	tree, k, h := bindHost(t)
	p, err := h.PlanBind(bdfs(t, disk), hostpci.BindOptions{})
	if err != nil || len(p.Steps) != 1 || len(p.Steps[0].Writes) != 3 {
		t.Fatalf("%+v, %v", p, err)
	}
	if got := p.Steps[0].Writes[1].String(); got != "echo 0000:01:00.0 > /sys/bus/pci/drivers/nvme/unbind" {
		t.Errorf("write reads %q", got)
	}
	if _, err := os.Stat(tree.Path("/run")); err == nil || len(k.Writes()) != 0 {
		t.Error("a plan changed something")
	}
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{Keep: true}); err != nil {
		t.Fatal(err)
	}
	p, err = h.PlanUnbind(bdfs(t, disk), hostpci.UnbindOptions{})
	if err != nil || p.Steps[0].To != "nvme" {
		t.Fatalf("%+v, %v", p, err)
	}
	var lines []string
	for _, w := range p.Steps[0].Writes {
		lines = append(lines, w.String())
	}
	want := []string{
		"echo 0000:01:00.0 > /sys/bus/pci/drivers/vfio-pci/unbind",
		"echo > /sys/bus/pci/devices/0000:01:00.0/driver_override",
		"echo 0000:01:00.0 > /sys/bus/pci/drivers/nvme/bind",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("unbind would write %q, want %q", lines, want)
	}
}

// A process is killed before or after any write of a bind and of the unbind after it: a
// copy of the tree as it was then, without the process, is given back entirely.
func TestKilledAnywhere(t *testing.T) {
	tree, k, h := bindHost(t)
	tree.Write(tree.Folder(nicA)+"/driver_override", "e1000e\n")
	var copies []*hosttest.Tree
	snap := func(int, hostpci.Write) error {
		copies = append(copies, tree.Copy())
		return nil
	}
	k.Before, k.After = snap, snap
	functions := bdfs(t, disk, nicA, nicB)
	if _, err := h.Bind(functions, hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Unbind(functions, hostpci.UnbindOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(copies) != 2*len(k.Writes()) || len(copies) < 2*14 {
		t.Fatalf("%d copies of %d writes", len(copies), len(k.Writes()))
	}
	for i, after := range copies {
		after.Remove("/proc/4242")
		kernel := &hosttest.Kernel{Tree: after, Matches: k.Matches}
		survivor := hostpci.New(after.Root).WithWriter(kernel, kernel.Load)
		if _, err := survivor.Recover(nil); err != nil {
			t.Errorf("copy %d: %v", i, err)
		}
		wantState(t, after, disk, "nvme", "(null)")
		wantState(t, after, nicA, "e1000e", "e1000e")
		wantState(t, after, nicB, "", "(null)")
		wantEntries(t, survivor, 0)
		if t.Failed() {
			t.Fatalf("after copy %d", i)
		}
	}
}

// TestFirstDriverIsKept is about a function whose VFIO driver has gone behind stile's back, by rmmod or an unbind by
// hand: a second bind must not take the state in between for the one to go back to.
func TestFirstDriverIsKept(t *testing.T) {
	for name, test := range map[string]struct {
		first, second string // drivers
		between       func(tree *hosttest.Tree)
		want          string // driver at the end
		override      string
	}{
		"the VFIO driver has gone": {"", "", func(tree *hosttest.Tree) { tree.Unbind(nicA) }, "e1000e", "e1000e"},
		"so has the donor":         {hostpci.DonorDriver, "", func(tree *hosttest.Tree) { tree.Unbind(nicA) }, "e1000e", "e1000e"},
		"wrapped afterwards":       {"", hostpci.DonorDriver, func(tree *hosttest.Tree) { tree.Unbind(nicA) }, "e1000e", "e1000e"},
		"the override is cleared, too": {"", "", func(tree *hosttest.Tree) {
			tree.Unbind(nicA)
			tree.Write(tree.Folder(nicA)+"/driver_override", "(null)\n")
		}, "e1000e", "(null)"},
		"somebody chose another driver": {"", "", func(tree *hosttest.Tree) {
			tree.Driver("other")
			tree.Unbind(nicA)
			tree.Write(tree.Folder(nicA)+"/driver_override", "other\n")
			tree.Bind(nicA, "other")
		}, "other", "other"},
	} {
		t.Run(name, func(t *testing.T) {
			tree, _, h := bindHost(t)
			tree.Driver(hostpci.DonorDriver)
			tree.Write(tree.Folder(nicA)+"/driver_override", "e1000e\n")
			if _, err := h.Bind(bdfs(t, nicA), hostpci.BindOptions{Driver: test.first, Keep: true}); err != nil {
				t.Fatal(err)
			}
			test.between(tree)
			if _, err := h.Bind(bdfs(t, nicA), hostpci.BindOptions{Driver: test.second}); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Unbind(bdfs(t, nicA), hostpci.UnbindOptions{}); err != nil {
				t.Fatal(err)
			}
			wantState(t, tree, nicA, test.want, test.override)
			wantEntries(t, h, 0)
		})
	}
}

func TestStaleAndKept(t *testing.T) {
	tree, _, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Bind(bdfs(t, nicA), hostpci.BindOptions{Keep: true}); err != nil {
		t.Fatal(err)
	}
	if stale, err := h.Stale(); err != nil || len(stale) != 0 {
		t.Errorf("stale while the owner runs: %v, %v", stale, err)
	}
	// The number is used again by a process that started later.
	tree.Remove("/proc/4242")
	tree.Process(hosttest.Self, hosttest.SelfStart+1, "other (with) parentheses")
	stale, err := h.Stale()
	if err != nil || len(stale) != 1 || stale[0].Address != bdf(t, disk) {
		t.Errorf("stale: %v, %v", stale, err)
	}
	steps, err := h.Recover(nil)
	if err != nil || len(steps) != 1 || steps[0].From != "vfio-pci" || steps[0].To != "nvme" {
		t.Errorf("recovered %+v, %v", steps, err)
	}
	wantState(t, tree, disk, "nvme", "(null)")
	wantState(t, tree, nicA, "vfio-pci", "vfio-pci")
	wantEntries(t, h, 1)
}

func TestRecoverSkipsWhatIsHeld(t *testing.T) {
	tree, _, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk, nicA), hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	tree.Remove("/proc/4242")
	tree.Process(31, 1, "qemu", "/dev/vfio/1")
	_, err := h.Recover(nil)
	wantError(t, err, "process 31 (qemu)")
	wantState(t, tree, disk, "vfio-pci", "vfio-pci")
	wantState(t, tree, nicA, "e1000e", "(null)")
}

// What a killed process left is given back before something else is bound.
func TestBindRecoversFirst(t *testing.T) {
	tree, _, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	tree.Remove("/proc/4242")
	var notices []string
	tree.Write("/proc/self/stat", strings.Replace(tree.Read("/proc/self/stat"), "4242", "4300", 1))
	tree.Process(4300, hosttest.SelfStart, "stile")
	if _, err := h.Bind(bdfs(t, nicA), hostpci.BindOptions{Notice: func(s string) { notices = append(notices, s) }}); err != nil {
		t.Fatal(err)
	}
	wantState(t, tree, disk, "nvme", "(null)")
	if len(notices) != 1 || !strings.Contains(notices[0], "gave 0000:01:00.0 back to nvme") {
		t.Errorf("notices %q", notices)
	}
}

func TestBoundByAnother(t *testing.T) {
	tree, _, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	tree.Write("/proc/self/stat", strings.Replace(tree.Read("/proc/self/stat"), "4242", "4300", 1))
	_, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{})
	wantError(t, err, "was bound by a stile that still runs (process 4242)")
	_, err = h.Unbind(bdfs(t, disk), hostpci.UnbindOptions{})
	wantError(t, err, "process 4242", "gives it back itself")
}

func TestJournalOfAnotherBoot(t *testing.T) {
	tree, _, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{Keep: true}); err != nil {
		t.Fatal(err)
	}
	tree.Write("/proc/sys/kernel/random/boot_id", "another\n")
	wantEntries(t, h, 0)
}

func TestJournalDamagedOrNewer(t *testing.T) {
	tree, _, h := bindHost(t)
	tree.Write("/run/stile/bindings.json", "{")
	_, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{})
	wantError(t, err, "/run/stile/bindings.json is damaged")
	tree.Write("/run/stile/bindings.json", `{"version": 9}`)
	_, err = h.Bind(bdfs(t, disk), hostpci.BindOptions{})
	wantError(t, err, "version 9")
	wantState(t, tree, disk, "nvme", "(null)")
}

func TestJournalText(t *testing.T) {
	tree, _, h := bindHost(t)
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{Keep: true}); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(tree.Read("/run/stile/bindings.json")), &got); err != nil {
		t.Fatal(err)
	}
	if got["boot_id"] != "11111111-2222-3333-4444-555555555555" {
		t.Errorf("journal %v", got)
	}
	entry := got["entries"].([]any)[0].(map[string]any)
	if entry["address"] != disk || entry["driver"] != "nvme" || entry["phase"] != "bound" {
		t.Errorf("entry %v", entry)
	}
}

// A write that the kernel holds up is told of, and goes on.
func TestSlowWriteIsTold(t *testing.T) {
	tree, k, h := bindHost(t)
	h.WithPatience(time.Second, time.Millisecond)
	told := make(chan string, 100)
	k.Before = func(n int, _ hostpci.Write) error {
		if n == 1 {
			text := <-told
			for strings.Contains(text, "/driver_override; ") { // the write before was slow, too
				text = <-told
			}
			if !strings.Contains(text, "waiting for the kernel: echo 0000:01:00.0 > /sys/bus/pci/drivers/nvme/unbind") {
				t.Errorf("notice %q", text)
			}
		}
		return nil
	}
	notice := func(text string) { told <- text }
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{Notice: notice}); err != nil {
		t.Fatal(err)
	}
	wantState(t, tree, disk, "vfio-pci", "vfio-pci")
}

// While one call changes something, another waits, and gives up with the process named.
func TestJournalIsLocked(t *testing.T) {
	_, k, h := bindHost(t)
	other := h.WithWriter(k, k.Load).WithPatience(time.Millisecond, time.Second)
	k.Before = func(n int, _ hostpci.Write) error {
		if n == 0 {
			_, err := other.Bind(bdfs(t, nicA), hostpci.BindOptions{})
			wantError(t, err, fmt.Sprintf("another stile (process %d)", os.Getpid()))
		}
		return nil
	}
	if _, err := h.Bind(bdfs(t, disk), hostpci.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Bind(bdfs(t, nicA), hostpci.BindOptions{}); err != nil {
		t.Errorf("after the first is done: %v", err)
	}
	wantEntries(t, h, 2)
}

// Many calls at once each leave their entry.
func TestBindAtOnce(t *testing.T) {
	tree, _, h := bindHost(t)
	functions := bdfs(t, disk, nicA, nicB)
	errs := make(chan error)
	for _, b := range functions {
		go func() {
			_, err := h.Bind([]hostpci.BDF{b}, hostpci.BindOptions{Keep: true})
			errs <- err
		}()
	}
	for range functions {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	wantEntries(t, h, len(functions))
	for _, b := range functions {
		wantState(t, tree, b.String(), "vfio-pci", "vfio-pci")
	}
}

func TestEndpoints(t *testing.T) {
	tree, _, h := bindHost(t)
	tree.Add(hosttest.Function{Address: "0000:07:00.1", Group: 7})
	s, err := h.Scan()
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[int][]hostpci.BDF{3: bdfs(t, nicA, nicB), 7: bdfs(t, "0000:07:00.1")} {
		if got, err := s.Endpoints(id); err != nil || !slices.Equal(got, want) {
			t.Errorf("group %d: %v, %v", id, got, err)
		}
	}
	_, err = s.Endpoints(4)
	wantError(t, err, "has no function that can be bound")
	_, err = s.Endpoints(99)
	wantError(t, err, "no IOMMU group 99")
}
