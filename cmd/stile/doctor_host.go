package main

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hostFiles is where doctor reads what the kernel says of itself: the root of the file system, but for tests.
type hostFiles struct{ fs.FS }

func (h hostFiles) read(name string) string {
	text, err := fs.ReadFile(h, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func (h hostFiles) exists(name string) bool {
	_, err := fs.Stat(h, name)
	return err == nil
}

// examineHost tells what the rest depends on.
func (h hostFiles) examineHost() finding {
	release := h.read("proc/sys/kernel/osrelease")
	if release == "" {
		return finding{Name: "host", State: limited, Detail: "/proc is not mounted", Remedy: "mount -t proc proc /proc"}
	}
	f := finding{Name: "host", State: good, Detail: fmt.Sprintf("Linux %s, stile %s", release, versionString())}
	if lockdown := h.read("sys/kernel/security/lockdown"); strings.Contains(lockdown, "[integrity]") || strings.Contains(lockdown, "[confidentiality]") {
		f.State, f.Detail = limited, f.Detail+", locked down: the kernel loads signed modules only"
		f.Remedy = "for stile mdev wrap, sign its module or switch Secure Boot off"
	}
	return f
}

// examineNesting tells whether guests can have KVM themselves.
func (h hostFiles) examineNesting() finding {
	f := finding{Name: "nesting", State: good}
	for _, module := range []string{"kvm_intel", "kvm_amd"} {
		switch h.read("sys/module/" + module + "/parameters/nested") {
		case "Y", "1":
			f.Detail = module + " lets guests run VMs"
			return f
		case "N", "0":
			f.State, f.Detail = limited, module+" does not let guests run VMs"
			f.Remedy = fmt.Sprintf("options %s nested=1 in /etc/modprobe.d, then load the module again", module)
			return f
		}
	}
	f.State, f.Detail = limited, "neither kvm_intel nor kvm_amd is loaded"
	f.Remedy = "none on a machine whose processor, or whose own host, has no virtualisation; else modprobe kvm_intel or kvm_amd"
	return f
}

// examineVFIO tells which interfaces to devices the kernel offers.
func (h hostFiles) examineVFIO() finding {
	f := finding{Name: "vfio", State: good}
	var have []string
	for _, part := range []struct{ file, name string }{
		{"dev/vfio/vfio", "groups (/dev/vfio/vfio)"},
		{"dev/iommu", "iommufd (/dev/iommu)"},
		{"sys/bus/pci/drivers/vfio-pci", "vfio-pci"},
	} {
		if h.exists(part.file) {
			have = append(have, part.name)
		}
	}
	f.Detail = strings.Join(have, ", ")
	if !h.exists("dev/vfio/vfio") && !h.exists("dev/iommu") || !h.exists("sys/bus/pci/drivers/vfio-pci") {
		f.State, f.Remedy = limited, "for passthrough: modprobe vfio-pci (stile bind loads it as root)"
		if f.Detail == "" {
			f.Detail = "not loaded"
		}
	}
	return f
}

// examineRemapping tells whether devices' interrupts can be isolated (VFIO refuses groups without).
func (h hostFiles) examineRemapping() finding {
	f := finding{Name: "interrupts", State: good}
	units, _ := fs.Glob(h, "sys/class/iommu/*")
	const dmarCaps, remaps = "intel-iommu/ecap", 1 << 3 // VT-d specification 11.4.3, Extended Capability Register, IR
	for _, unit := range units {
		if text := h.read(filepath.Join(unit, dmarCaps)); text != "" {
			caps, err := strconv.ParseUint(text, 16, 64)
			if err == nil && caps&remaps == 0 {
				f.State, f.Detail = limited, filepath.Base(unit)+" can't remap interrupts"
				f.Remedy = "turn interrupt remapping on in the firmware setup, and do not boot with intremap=off"
				return f
			}
		}
	}
	switch {
	case len(units) == 0:
		f.State, f.Detail, f.Remedy = limited, "no IOMMU that could remap them", "see iommu"
	case strings.Contains(" "+h.read("proc/cmdline")+" ", " intremap=off "):
		f.State, f.Detail, f.Remedy = limited, "remapping is off by the kernel's command line", "boot without intremap=off"
	default:
		f.Detail = "the IOMMU remaps them"
	}
	return f
}

// examineHugePages tells what guests' RAM can be made of.
func (h hostFiles) examineHugePages() finding {
	f := finding{Name: "huge pages", State: good}
	transparent := "off"
	if _, rest, ok := strings.Cut(h.read("sys/kernel/mm/transparent_hugepage/enabled"), "["); ok {
		transparent, _, _ = strings.Cut(rest, "]")
	}
	pool := h.read("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
	f.Detail = fmt.Sprintf("transparent: %s; %s free in the pool of 2 MiB", transparent, orZero(pool))
	if transparent == "never" || transparent == "off" {
		f.State, f.Remedy = limited, "echo madvise >/sys/kernel/mm/transparent_hugepage/enabled; guests' RAM is slower to touch and to map without"
	}
	return f
}

func orZero(text string) string {
	if text == "" {
		return "0"
	}
	return text
}

// examineLimits tells how many files stile may open: each queue and vector of a device takes some.
func examineLimits() finding {
	f := finding{Name: "files", State: good}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return finding{Name: f.Name, State: limited, Detail: err.Error(), Remedy: "none: the kernel does not tell"}
	}
	const wanted = 1024
	f.Detail = fmt.Sprintf("%d open files allowed", limit.Max)
	if limit.Max < wanted {
		f.State, f.Remedy = limited, fmt.Sprintf("ulimit -Hn %d: guests with many devices or shared files need more", wanted)
	}
	return f
}
