package distro

import (
	"errors"
	"os/exec"
	"testing"

	"github.com/stile-vmm/stile/boot"
	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/testenv"
)

// TestDebian fetches a kernel of the system's own, a small one where there is one, into the user's cache, and finds
// in it what the lab needs.
func TestDebian(t *testing.T) {
	testenv.Short(t)
	if _, err := exec.LookPath("apt-get"); err != nil {
		testenv.Missing(t, "apt", err.Error())
	}
	c, err := images.Open("")
	if err != nil {
		t.Fatal(err)
	}
	k, err := fetchAny(t, c)
	if err != nil {
		testenv.Missing(t, "apt", err.Error())
	}
	image, err := boot.Open(k.Image)
	if err != nil {
		t.Fatal(err)
	}
	image.Close()
	if got := imageRelease(k.Image); got != k.Release {
		t.Errorf("%s says that it is %q", k.Image, got)
	}
	modules, missing, err := images.ModuleClosure(k.Modules, []string{"kvm_amd", "vfio-pci", "virtio_console"})
	if err != nil || len(missing) > 0 || len(modules) < 3 {
		t.Errorf("modules %v, missing %v, %v", modules, missing, err)
	}
}

func fetchAny(t *testing.T, c *images.Cache) (*Kernel, error) {
	var errs []error
	for _, version := range []string{"6.1-cloud", "6.12-cloud", "6.8"} {
		k, err := Fetch(t.Context(), c, version, func(what string) { t.Log(what) })
		if err == nil {
			return k, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
