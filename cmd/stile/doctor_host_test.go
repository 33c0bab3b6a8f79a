package main

import (
	"strings"
	"testing"
	"testing/fstest"
)

func TestExamineHost(t *testing.T) {
	for _, test := range []struct {
		name    string
		files   map[string]string
		examine func(hostFiles) finding
		state   state
		detail  string
	}{
		{"no proc", nil, hostFiles.examineHost, limited, "not mounted"},
		{"host", map[string]string{"proc/sys/kernel/osrelease": "6.1.0\n"}, hostFiles.examineHost, good, "Linux 6.1.0"},
		{"lockdown", map[string]string{"proc/sys/kernel/osrelease": "6.1.0\n", "sys/kernel/security/lockdown": "none [integrity] confidentiality\n"},
			hostFiles.examineHost, limited, "locked down"},
		{"no lockdown", map[string]string{"proc/sys/kernel/osrelease": "6.1.0\n", "sys/kernel/security/lockdown": "[none] integrity confidentiality\n"},
			hostFiles.examineHost, good, "6.1.0"},
		{"nesting", map[string]string{"sys/module/kvm_intel/parameters/nested": "Y\n"}, hostFiles.examineNesting, good, "kvm_intel lets"},
		{"no nesting", map[string]string{"sys/module/kvm_amd/parameters/nested": "0\n"}, hostFiles.examineNesting, limited, "kvm_amd does not"},
		{"no KVM", nil, hostFiles.examineNesting, limited, "neither"},
		{"VFIO", map[string]string{"dev/vfio/vfio": "", "sys/bus/pci/drivers/vfio-pci/bind": ""}, hostFiles.examineVFIO, good, "groups"},
		{"no VFIO", nil, hostFiles.examineVFIO, limited, "not loaded"},
		{"no driver", map[string]string{"dev/iommu": ""}, hostFiles.examineVFIO, limited, "iommufd"},
		{"remapping", map[string]string{"sys/class/iommu/dmar0/intel-iommu/ecap": "f0000f\n"}, hostFiles.examineRemapping, good, "remaps"},
		{"no remapping", map[string]string{"sys/class/iommu/dmar0/intel-iommu/ecap": "f00007\n"}, hostFiles.examineRemapping, limited, "dmar0"},
		{"remapping off", map[string]string{"sys/class/iommu/ivhd0/uevent": "", "proc/cmdline": "ro intremap=off"}, hostFiles.examineRemapping, limited, "command line"},
		{"no IOMMU", nil, hostFiles.examineRemapping, limited, "no IOMMU"},
		{"huge pages", map[string]string{"sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n"}, hostFiles.examineHugePages, good, "madvise; 0 free"},
		{"no huge pages", nil, hostFiles.examineHugePages, limited, "off"},
	} {
		tree := fstest.MapFS{}
		for name, text := range test.files {
			tree[name] = &fstest.MapFile{Data: []byte(text)}
		}
		f := test.examine(hostFiles{tree})
		if f.State != test.state || !strings.Contains(f.Detail, test.detail) {
			t.Errorf("%s: %+v, want %s and %q", test.name, f, test.state, test.detail)
		}
		if (f.State != good) != (f.Remedy != "") {
			t.Errorf("%s: the remedy for %s is %q", test.name, f.State, f.Remedy)
		}
	}
}
