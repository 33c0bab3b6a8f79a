package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/vmtest"
)

// selftests are the kernel's own tests of VFIO that take one device and need no driver of theirs for it.
var selftests = []string{
	"vfio_dma_mapping_test", "vfio_dma_mapping_mmio_test", "vfio_iommufd_setup_test", "vfio_pci_device_test", "vfio_pci_device_init_perf_test",
}

// selftestChanges let a UUID stand where the tests want an address: of the device's folder, or of its parent's, which is above it.
var selftestChanges = []struct{ file, from, to string }{
	{"lib/libvfio.c", "return count == 4 && length == strlen(str);", "return (count == 4 && length == strlen(str)) || strlen(str) == 36;"},
	{"lib/sysfs.c", `"/sys/bus/pci/devices/%s/iommu_group", bdf`, `"/sys/bus/%s/devices/%s/iommu_group", strlen(bdf) == 36 ? "mdev" : "pci", bdf`},
	{"lib/vfio_pci_device.c", `"/sys/bus/pci/devices/%s/vfio-dev/", bdf`, `"/sys/bus/%s/devices/%s/vfio-dev/", strlen(bdf) == 36 ? "mdev" : "pci", bdf`},
	{"vfio_pci_device_test.c", "\"/sys/bus/pci/devices/%s/%s\",\t\\\n\t\t\tdevice_bdf,",
		"\"/sys/bus/%s/devices/%s%s/%s\",\t\\\n\t\t\tstrlen(device_bdf) == 36 ? \"mdev\" : \"pci\", device_bdf, strlen(device_bdf) == 36 ? \"/..\" : \"\","},
}

// selftestOutcome is what a selftest's programs said, by name.
type selftestOutcome map[string]selftestResult

type selftestResult struct {
	Totals string
	Failed []string
}

// TestSelftests: the kernel's VFIO selftests say the same of a wrapped function as of one on vfio-pci. It logs the table of
// docs/mdev-pci.md.
func TestSelftests(t *testing.T) {
	needGuests(t)
	if !testenv.Soak() {
		testenv.Missing(t, "soak", "it is run by make soak")
	}
	cache, err := images.Open("")
	if err != nil {
		t.Fatal(err)
	}
	dir, m := buildSelftests(t, cache), &matrix{cache: cache}
	table := "\n| nested kernel | device | passed | failed, of which each also fails on vfio-pci |\n|---|---|---|---|\n"
	for _, kernel := range []string{guest.LabKernelBuilt, newestKernel} {
		t.Run(kernel, func(t *testing.T) {
			if err := m.module(t, kernel); err != nil {
				testenv.Missing(t, "compiler of "+kernel, err.Error())
			}
			p := passed{vmtest.Lab(t, vmtest.LabConfig{Topology: "all", Kernel: kernel})}
			for _, device := range [][2]string{{"edu", labEdu}, {"e1000e", labNIC}, {"nvme", labNVMe}} {
				table += fmt.Sprintf("| %s | %s | %s |\n", kernel, device[0], p.selftests(t, dir, device[1]))
			}
		})
	}
	t.Log(table)
}

// selftests compares a function on vfio-pci with the same one wrapped, and returns two cells of the table.
func (p passed) selftests(t *testing.T, dir, function string) string {
	t.Helper()
	p.stile(t, "bind", function)
	plain := p.selftest(t, dir, function)
	p.stile(t, "unbind", function)
	wrapped := p.selftest(t, dir, p.wrap(t, function)[1])
	p.stile(t, "mdev", "unwrap", function)
	if diff := cmp.Diff(plain, wrapped); diff != "" {
		t.Errorf("%s: on vfio-pci (-), wrapped (+):\n%s", function, diff)
	}
	count, failed := 0, []string{}
	for _, r := range wrapped {
		var n int
		if _, err := fmt.Sscanf(r.Totals, "pass:%d", &n); err != nil {
			t.Errorf("%s: %q", function, r.Totals)
		}
		count += n
		failed = append(failed, r.Failed...)
	}
	if count == 0 {
		t.Errorf("%s: nothing passed", function)
	}
	return fmt.Sprintf("%d | %s", count, strings.Join(failed, ", "))
}

var (
	selftestTotals = regexp.MustCompile(`(?m)^# Totals: (.*)$`)
	selftestFailed = regexp.MustCompile(`(?m)^not ok \d+ (\S+)$`)
)

func (p passed) selftest(t *testing.T, dir, device string) selftestOutcome {
	t.Helper()
	result := make(selftestOutcome)
	for _, program := range selftests {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		out, _ := p.Command(ctx, filepath.Join(dir, program), device).CombinedOutput() // its status tells less than its lines
		cancel()
		var r selftestResult
		if m := selftestTotals.FindSubmatch(out); m != nil {
			r.Totals = string(m[1])
		} else {
			t.Errorf("%s %s said:\n%s", program, device, out)
		}
		for _, m := range selftestFailed.FindAllSubmatch(out, -1) {
			r.Failed = append(r.Failed, string(m[1]))
		}
		result[program] = r
	}
	return result
}

// buildSelftests builds the tests of the newest packaged kernel, with that kernel's headers, and returns where.
func buildSelftests(t *testing.T, cache *images.Cache) string {
	t.Helper()
	if _, err := os.Stat("/usr/include/uuid/uuid.h"); err != nil {
		testenv.Missing(t, "uuid-dev", err.Error())
	}
	source, err := distro.FetchSource(t.Context(), cache, newestKernel, func(what string) { t.Log(what) })
	if err != nil {
		testenv.Missing(t, "apt", err.Error())
	}
	tree, out := t.TempDir(), t.TempDir()
	if err := source.Unpack(t.Context(), tree); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(tree, "tools/testing/selftests/vfio")
	for _, c := range selftestChanges {
		path := filepath.Join(dir, c.file)
		text, err := os.ReadFile(path)
		if err != nil || bytes.Count(text, []byte(c.from)) != 1 {
			t.Fatalf("%s of %s is another than expected, without one %q (%v)", c.file, source.Tarball, c.from, err)
		}
		if err := os.WriteFile(path, bytes.Replace(text, []byte(c.from), []byte(c.to), 1), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := func(args ...string) {
		t.Helper()
		if text, err := exec.CommandContext(t.Context(), "make", append([]string{"-s"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("make %q: %v\n%s", args, err, text)
		}
	}
	build("-C", tree, "headers")
	// Linux 7.2.13 uses calloc_assert, which its own assert.h lacks.
	build("-C", dir, "OUTPUT="+out, "KHDR_INCLUDES=-isystem "+tree+"/usr/include", "EXTRA_CFLAGS=-Dcalloc_assert=calloc")
	return out
}
