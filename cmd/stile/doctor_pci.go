package main

import (
	"fmt"
	"strings"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/mdev"
	"github.com/stile-vmm/stile/vfio"
)

// examinePassthrough tells whether this host's devices can be given to guests.
func examinePassthrough() []finding {
	host := hostpci.New("/")
	iommu := finding{Name: "iommu", State: good}
	snapshot, err := host.Scan()
	if err != nil {
		iommu.State, iommu.Detail, iommu.Remedy = limited, err.Error(), "see that sysfs is mounted on /sys, and can be read"
		return []finding{iommu}
	}
	if !snapshot.IOMMU.On {
		iommu.State, iommu.Detail, iommu.Remedy = limited, snapshot.IOMMU.Reason, snapshot.IOMMU.Remedy
	} else {
		iommu.Detail = fmt.Sprintf("%d groups, %d of them ready for guests", len(snapshot.Groups), usable(snapshot))
	}
	return []finding{iommu, examineMemlock(), examineStale(mdev.New("/"))}
}

func usable(s *hostpci.Snapshot) (n int) {
	for _, g := range s.Groups {
		if g.Viability.Usable {
			n++
		}
	}
	return n
}

// examineMemlock asks for what a guest of the default size needs.
func examineMemlock() finding {
	f := finding{Name: "memlock", State: good, Detail: fmt.Sprintf("enough for passthrough to a guest of %s", roundSize(guest.DefaultMemory))}
	if err := vfio.CheckMemlock(vfio.Legacy, guest.DefaultMemory); err != nil {
		f.State = limited
		f.explain(err)
	}
	return f
}

// examineStale looks for what killed processes have left bound or half wrapped.
func examineStale(host *mdev.Host) finding {
	f := finding{Name: "bindings", State: good, Detail: "none left by killed runs"}
	stale, err := host.PCI().Stale()
	if err != nil {
		f.State, f.Detail, f.Remedy = limited, err.Error(), "stile unbind --stale, as root"
		return f
	}
	var names []string
	for _, e := range stale {
		names = append(names, e.Address.String())
	}
	for _, b := range host.Stale() {
		names = append(names, b.String()+" (half wrapped)")
	}
	if len(names) > 0 {
		f.State, f.Detail, f.Remedy = limited, "left bound by killed runs: "+strings.Join(names, ", "), "stile unbind --stale"
	}
	return f
}
