package vfio_test

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/vmtest"
)

// bindScript gives the functions $* to vfio-pci.
const bindScript = `for f; do
	cd /sys/bus/pci/devices/$f && echo vfio-pci > driver_override
	if [ -e driver ]; then echo $f > driver/unbind; fi
	echo $f > /sys/bus/pci/drivers_probe && [ $(basename $(readlink driver)) = vfio-pci ]
done`

// TestInLab runs this package's lab tests in a nested host: with the lab's own kernel, which has iommufd too, with the
// distribution's 6.1, and without interrupt remapping.
func TestInLab(t *testing.T) {
	if os.Getenv("STILE_VFIO_LAB") != "" {
		return // this is the nested host
	}
	const edu, conventional, msix, large, pf = "0000:01:00.0", "0000:04:01.0,0000:04:02.0", "0000:05:00.0", "0000:0a:00.0", "0000:07:00.0"
	bound := []string{edu, "0000:04:01.0", "0000:04:02.0", "0000:04:03.0", "0000:02:00.0", msix, large, pf}
	env := []string{
		"STILE_VFIO_EDU=" + edu, "STILE_VFIO_GROUP=" + conventional, "STILE_VFIO_MSIX=" + msix,
		"STILE_VFIO_BLOCKED=0000:02:00.0", // 0000:02:00.2 stays with e1000e
		"STILE_VFIO_LARGE=" + large, "STILE_VFIO_PF=" + pf, "STILE_VFIO_BUS=" + conventional + ",0000:04:03.0",
	}
	t.Run("built kernel", func(t *testing.T) {
		inLab(t, vmtest.LabConfig{Topology: "all"}, bound, env, "iommufd")
	})
	t.Run("6.1", func(t *testing.T) {
		inLab(t, vmtest.LabConfig{Topology: "all", Kernel: "6.1"}, bound, env, "legacy")
	})
	t.Run("no interrupt remapping", func(t *testing.T) {
		inLab(t, vmtest.LabConfig{Topology: "no-remapping"}, []string{edu}, []string{"STILE_VFIO_NOT_ISOLATED=" + edu}, "")
	})
}

// inLab binds functions and runs the tests of env on them; want must be in what they print.
func inLab(t *testing.T, c vmtest.LabConfig, functions, env []string, want string) {
	host := vmtest.Lab(t, c)
	var output bytes.Buffer
	bind := host.Command(t.Context(), "sh", append([]string{"-ec", bindScript, "sh"}, functions...)...)
	bind.Stderr = &output
	if err := bind.Run(); err != nil {
		t.Fatalf("bind: %v: %s", err, output.String())
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := host.Command(t.Context(), self, "-test.v", "-test.run=^TestLab")
	run.Env = append(slices.Clone(env), "STILE_VFIO_LAB=1")
	run.Stdout, run.Stderr = &output, &output
	err = run.Run()
	text := output.String()
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	if passed := strings.Count(text, "--- PASS"); passed == 0 || !strings.Contains(text, want) {
		t.Errorf("%d tests passed:\n%s", passed, text)
	}
	t.Logf("%d passed, %d skipped", strings.Count(text, "--- PASS"), strings.Count(text, "--- SKIP"))
}
