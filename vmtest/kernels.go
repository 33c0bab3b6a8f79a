package vmtest

import (
	"errors"
	"os"
	"testing"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/internal/testenv"
)

// Kernels checks that kernels are there, for a table of tests, and returns their names, for Config.Kernel: "default", "host", or the version of one
// of the distribution's packages, such as "6.1". A package is fetched and kept in stile's cache.
//
//	for _, kernel := range vmtest.Kernels(t, "default", "6.1", "6.12") {
//		t.Run(kernel, func(t *testing.T) {
//			vmtest.Run(t, vmtest.Config{Kernel: kernel}, func(t *testing.T) { … })
//		})
//	}
//
// A test is skipped where there is no apt to fetch with, or fails where STILE_TEST_REQUIRE lists "apt". In a guest all names are
// returned and nothing is fetched, so that the table has the same rows there.
func Kernels(t testing.TB, names ...string) []string {
	t.Helper()
	if InGuest() {
		return names
	}
	testenv.Short(t)
	cache, err := images.Open("")
	if err != nil {
		t.Fatalf("vmtest: %v", err)
	}
	for _, name := range names {
		if err := (Config{Kernel: name}).spec().Validate(); err != nil {
			t.Fatalf("vmtest: %v", inGo(err))
		}
		if name == "default" || name == "host" {
			continue
		}
		_, err := distro.Fetch(t.Context(), cache, name, func(line string) { _, _ = os.Stderr.WriteString("vmtest: " + line + "\n") })
		if errors.Is(err, distro.ErrNoApt) {
			testenv.Missing(t, "apt", err.Error())
		}
		if err != nil {
			t.Fatalf("vmtest: kernel %s: %v", name, inGo(err))
		}
	}
	return names
}
