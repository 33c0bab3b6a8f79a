package mdev_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/images/kbuild"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/mdev"
	"github.com/stile-vmm/stile/vmtest"
)

// The lab tests run as root in a nested host, where labVariable is set to the file of package vfio's tests.
const labVariable = "STILE_MDEV_LAB"

// TestInLab runs this package's lab tests in a nested host: with the lab's own kernel, which has iommufd too, with the
// distribution's, and, where STILE_DEBUG_KERNEL is set, with KASAN and lockdep, which takes minutes.
func TestInLab(t *testing.T) {
	if os.Getenv(labVariable) != "" {
		return // this is the nested host
	}
	testenv.Short(t)
	cache, err := images.Open("")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("built kernel", func(t *testing.T) {
		k, ok := kbuild.Cached(cache, kbuild.Options{})
		inLab(t, cache, "built", k, ok)
	})
	t.Run("6.1", func(t *testing.T) {
		k, ok := distro.Lookup(cache, "6.1")
		inLab(t, cache, "6.1", k, ok)
	})
	t.Run("debug kernel", func(t *testing.T) {
		if os.Getenv("STILE_DEBUG_KERNEL") == "" {
			testenv.Missing(t, "time", "STILE_DEBUG_KERNEL is not set")
		}
		k, ok := kbuild.Cached(cache, kbuild.Options{Config: kbuild.LabDebug})
		inLab(t, cache, "debug", k, ok)
	})
}

func inLab(t *testing.T, cache *images.Cache, name string, k *distro.Kernel, ok bool) {
	if !ok {
		testenv.Missing(t, "kernel-"+name, "it is not in the cache")
	}
	buildModule(t, cache, k)
	vfioTests := buildVFIOTests(t)
	host := vmtest.Lab(t, vmtest.LabConfig{Topology: "all", Kernel: name})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	for _, tests := range []string{"^TestLab", "^TestAfterLab$", "^TestLastLockdown$"} {
		run := host.Command(t.Context(), self, "-test.v", "-test.run="+tests)
		run.Env = []string{labVariable + "=" + vfioTests, images.EnvCache + "=" + cache.Dir(), "STILE_SOAK=" + os.Getenv("STILE_SOAK")}
		run.Stdout, run.Stderr = &output, &output
		if err := run.Run(); err != nil {
			t.Errorf("%s: %v:\n%s", tests, err, output.String())
		}
	}
	text := output.String()
	if strings.Count(text, "\n--- PASS: TestLabPoint") != 6 {
		t.Errorf("not all six points passed:\n%s", text)
	}
	for _, line := range regexp.MustCompile(`SOAK .*`).FindAllString(text, -1) {
		t.Log(line)
	}
	t.Logf("%d passed, %d skipped", strings.Count(text, "--- PASS"), strings.Count(text, "--- SKIP"))
}

// buildModule puts the module into the cache, which the nested host sees: there it would take a minute.
func buildModule(t *testing.T, cache *images.Cache, k *distro.Kernel) {
	t.Helper()
	m := &mdev.Module{Release: k.Release, Cache: cache, Headers: []string{"/usr/src/linux-headers-" + k.Release}}
	if k.Headers != "" {
		m.Headers = append(m.Headers, k.Headers)
	}
	m.Fetch = func(ctx context.Context) (string, error) {
		return distro.FetchHeaders(ctx, cache, k.Release, func(what string) { t.Log(what) })
	}
	if _, err := m.Build(t.Context()); err != nil {
		testenv.Missing(t, "kernel-headers", err.Error())
	}
}

// buildVFIOTests builds the tests of package vfio, which serve for wrapped devices as well.
func buildVFIOTests(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vfio.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", path, "../vfio")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}
