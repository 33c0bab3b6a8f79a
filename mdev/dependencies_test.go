package mdev

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// kernelModules is a kernel that has some modules, none of them loaded.
type kernelModules struct {
	t      *testing.T
	root   string
	has    []string
	loaded []string
}

func (k *kernelModules) load(modules []string) error {
	for _, name := range modules {
		if !slices.Contains(k.has, name) {
			return errors.New("no module " + name)
		}
		k.loaded = append(k.loaded, name)
		sign := filepath.Join(k.root, "sys/module", name)
		if name == "iommufd" {
			sign = filepath.Join(k.root, "dev/iommu")
		}
		if err := os.MkdirAll(sign, 0o755); err != nil {
			k.t.Fatal(err)
		}
	}
	return nil
}

// TestDependencies: vfio_pci comes before its core where there is one, and iommufd does where type1 is left out.
func TestDependencies(t *testing.T) {
	for name, test := range map[string]struct {
		has, loaded []string
		fault       string
	}{
		"distribution":  {[]string{"mdev", "vfio_pci_core", "vfio_pci", "vfio_iommu_type1", "iommufd"}, []string{"vfio_pci", "vfio_iommu_type1", "iommufd", "mdev", "vfio_pci_core"}, ""},
		"no vfio-pci":   {[]string{"mdev", "vfio_pci_core", "vfio_iommu_type1"}, []string{"vfio_iommu_type1", "mdev", "vfio_pci_core"}, ""},
		"iommufd alone": {[]string{"mdev", "vfio_pci_core", "vfio_pci", "iommufd"}, []string{"vfio_pci", "iommufd", "mdev", "vfio_pci_core"}, ""},
		"neither":       {[]string{"mdev", "vfio_pci_core"}, []string{"mdev", "vfio_pci_core"}, "neither vfio_iommu_type1"},
		"no mdev":       {[]string{"vfio_pci_core", "vfio_iommu_type1"}, []string{"vfio_iommu_type1"}, "no module mdev"},
		"cloud kernel":  {nil, nil, "no module mdev"},
	} {
		t.Run(name, func(t *testing.T) {
			k := &kernelModules{t: t, root: t.TempDir(), has: test.has}
			l := loader{k.root, "1.2.3", func(modules ...string) error { return k.load(modules) }, func(dir string, modules []string) error {
				if dir != filepath.Join(k.root, "lib/modules/1.2.3") {
					t.Errorf("modules of %s", dir)
				}
				return k.load(modules)
			}}
			err := l.dependencies()
			if (err == nil) != (test.fault == "") || err != nil && !strings.Contains(err.Error(), test.fault) {
				t.Errorf("%v, want %q", err, test.fault)
			}
			if !slices.Equal(k.loaded, test.loaded) {
				t.Errorf("loaded %q, want %q", k.loaded, test.loaded)
			}
		})
	}
}
