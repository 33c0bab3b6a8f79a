package mdev_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/internal/testenv"
)

// TestNewestKernel builds the module, with all of the compiler's warnings as errors, against the newest kernel that the
// system's package manager offers.
func TestNewestKernel(t *testing.T) {
	testenv.Short(t)
	release := newestKernel(t)
	cache, err := images.Open("")
	check(t, err)
	headers, err := distro.FetchHeaders(t.Context(), cache, release, func(what string) { t.Log(what) })
	if err != nil {
		testenv.Missing(t, "kernel-headers", err.Error())
	}
	dir := t.TempDir()
	check(t, os.CopyFS(dir, os.DirFS("kmod")))
	build := exec.CommandContext(t.Context(), "make", "-C", dir, "KDIR="+headers, "check")
	build.Env = append(os.Environ(), "MAKEFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", release, err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "vfio_mdev_pci.ko")); err != nil {
		t.Error(err)
	}
	t.Log(release)
}

// newestKernel returns the newest release whose headers are packaged, of the kernels for everybody.
func newestKernel(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "apt-cache", "pkgnames", distro.HeadersPackage("")).Output()
	if err != nil {
		testenv.Missing(t, "apt", err.Error())
	}
	var releases []string
	for _, m := range regexp.MustCompile(`(?m)^linux-headers-([0-9]+\.[0-9]+\.[0-9]+.*-(?:amd64|generic))$`).FindAllSubmatch(out, -1) {
		if !strings.Contains(string(m[1]), "-rt-") && !strings.Contains(string(m[1]), "-cloud-") {
			releases = append(releases, string(m[1]))
		}
	}
	if len(releases) == 0 {
		testenv.Missing(t, "kernel-headers", "no packages of headers are known")
	}
	return slices.MaxFunc(releases, func(a, b string) int { return slices.Compare(numbers(a), numbers(b)) })
}

func numbers(release string) (list []int) {
	for _, digits := range regexp.MustCompile(`[0-9]+`).FindAllString(release, -1) {
		n, _ := strconv.Atoi(digits)
		list = append(list, n)
	}
	return list
}
