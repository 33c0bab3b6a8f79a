package mdev_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/mdev"
)

// TestLabChurn makes and ends devices in all ways, with removals and unbindings that meet. In a soak it does so often, and the
// kernel keeps no memory of it.
func TestLabChurn(t *testing.T) {
	h := labHost(t)
	w := labWrap(t, h, network)
	churn(t, h, w.UUID, 50, 20)
	if testenv.Soak() {
		const creates, binds = 1000, 200
		before, start := slabs(t), time.Now()
		churn(t, h, w.UUID, creates, binds)
		took := time.Since(start).Round(time.Second)
		grown := wantSlabs(t, before, slabs(t), binds/2)
		t.Logf("SOAK %s: %d creates and removes, %d unbinds and binds in %v; most grown: %s", unameRelease(t), creates, binds, took, grown)
	}
	check(t, unix.DeleteModule("vfio_mdev_pci", 0))
	if driver(network) != "" || exists("/sys/bus/mdev/devices/"+w.UUID) {
		t.Error("something outlived the module")
	}
	ensure(t)
	check(t, write("/sys/bus/pci/drivers_probe", network))
}

func churn(t *testing.T, h *mdev.Host, uuid string, creates, binds int) {
	t.Helper()
	for range creates {
		check(t, h.Remove(uuid, mdev.RemoveOptions{}))
		_, err := h.Create(network, "type1", uuid)
		check(t, err)
	}
	for range binds {
		removed := make(chan error)
		go func() { removed <- write("/sys/bus/mdev/devices/"+uuid+"/remove", "1") }()
		check(t, write(donorFolder+"/unbind", network))
		<-removed
		check(t, write("/sys/bus/pci/drivers_probe", network))
		_, err := h.Create(network, "type1", uuid)
		check(t, err)
	}
}

// slabs returns how many objects each of the kernel's caches has in use, those apart that it can drop.
func slabs(t *testing.T) map[string]int {
	t.Helper()
	check(t, write("/proc/sys/vm/drop_caches", "3"))
	text, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		testenv.Missing(t, "slabinfo", err.Error())
	}
	inUse := make(map[string]int)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if n, err := strconv.Atoi(fields[1]); err == nil {
			inUse[fields[0]] = n
		}
	}
	return inUse
}

// wantSlabs fails if a cache has more objects than before, by more than limit, and returns the caches that grew most.
func wantSlabs(t *testing.T, before, after map[string]int, limit int) string {
	t.Helper()
	grown := func(name string) int { return after[name] - before[name] }
	names := slices.SortedFunc(maps.Keys(after), func(a, b string) int { return grown(b) - grown(a) })
	var most []string
	for _, name := range names {
		if grown(name) > limit {
			t.Errorf("%s has %d objects more", name, grown(name))
		}
		if len(most) < 3 {
			most = append(most, name+" by "+strconv.Itoa(grown(name)))
		}
	}
	return strings.Join(most, ", ")
}

// TestAfterLab runs after the lab tests: the kernel has found nothing wrong.
func TestAfterLab(t *testing.T) {
	labHost(t)
	log := kernelLog(t)
	if found := regexp.MustCompile(`(?m)^.*(WARNING:|BUG:|Oops|Call Trace|refcount_t|KASAN).*$`).FindAllString(log, -1); len(found) > 0 {
		t.Errorf("the kernel's log has %q:\n%s", found, log)
	}
}

// TestLastLockdown runs last, because there is no way back: a kernel that is locked down refuses the module, which is explained.
func TestLastLockdown(t *testing.T) {
	labHost(t)
	const folder = "/sys/kernel/security"
	_ = unix.Mount("securityfs", folder, "securityfs", 0, "")
	if !exists(folder + "/lockdown") {
		testenv.Missing(t, "lockdown", "the kernel can't be locked down")
	}
	check(t, unload("vfio_mdev_pci"))
	check(t, write(folder+"/lockdown", "integrity"))
	m, err := runningModule(t)
	check(t, err)
	wantError(t, m.Ensure(t.Context()), "locked down (integrity", "sign it")
}
