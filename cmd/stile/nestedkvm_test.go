package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/vmtest"
)

// envLabKernels names, separated by commas, the kernels of nested hosts whose KVM is tested: what
// stile lab run --kernel takes. Without it that is the lab's own.
const envLabKernels = "STILE_TEST_LAB_KERNELS"

// TestNestedKVM runs what uses KVM directly on the KVM of other kernels than this host's.
func TestNestedKVM(t *testing.T) {
	needGuests(t)
	binaries := buildKVMTests(t)
	for name := range strings.SplitSeq(os.Getenv(envLabKernels), ",") {
		t.Run("kernel "+name, func(t *testing.T) {
			testNestedKVM(t, vmtest.Lab(t, vmtest.LabConfig{Kernel: name}), binaries)
		})
	}
}

// kvmTest is the test binary of a package with micro-guests.
type kvmTest struct{ binary, folder string }

// buildKVMTests builds those of all packages that have some.
func buildKVMTests(t *testing.T) []kvmTest {
	t.Helper()
	dir := t.TempDir()
	var all []kvmTest
	for _, name := range []string{"kvm", "vmm", "boot"} {
		folder, err := filepath.Abs(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		test := kvmTest{filepath.Join(dir, name+".test"), folder}
		build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", test.binary, ".")
		build.Dir, build.Env = folder, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the tests of %s: %v\n%s", name, err, out)
		}
		all = append(all, test)
	}
	return all
}

// testNestedKVM demands that stile takes the nested host's KVM for what it is, and that each
// micro-guest does on it what it does here.
func testNestedKVM(t *testing.T, host *vmtest.VM, binaries []kvmTest) {
	t.Helper()
	release, err := host.Command(t.Context(), "uname", "-r").Output()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("Linux %s", release)
	checkDoctor(t, host)
	for _, test := range binaries {
		cmd := host.Command(t.Context(), test.binary, "-test.short", "-test.timeout=5m")
		cmd.Dir, cmd.Env = test.folder, []string{"STILE_TEST_REQUIRE=kvm"}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", filepath.Base(test.binary), err, out)
		}
	}
}

// checkDoctor demands that doctor finds KVM good.
func checkDoctor(t *testing.T, host *vmtest.VM) {
	t.Helper()
	out, _ := host.Command(t.Context(), filepath.Join(tools, "stile"), "doctor", "--json").Output() // the status is of all findings
	var findings []finding
	if err := json.Unmarshal(out, &findings); err != nil {
		t.Fatalf("doctor: %v: %s", err, out)
	}
	for _, f := range findings {
		if f.Name != "kvm" {
			continue
		}
		if f.State != good || !strings.Contains(f.Detail, "runs guests") {
			t.Errorf("doctor: %+v", f)
		}
		return
	}
	t.Errorf("doctor says nothing of KVM: %s", out)
}
