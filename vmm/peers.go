package vmm

import (
	"fmt"
	"strings"
	"sync"

	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/vfio"
)

// peerMaps maps BARs of the host's devices for each other's DMA. That it can't be done is
// told once and stops nothing: few drivers want it.
type peerMaps struct {
	host   *hostDevices
	notice func(string)

	mu     sync.Mutex
	mapped map[uint64]uint64 // bytes by IOVA
	told   bool
}

// peers returns what lets the devices reach each other: nil for one device alone, and with
// iommufd, which does not map BARs (Linux 6.12): the user is told, who can choose groups.
func (h *hostDevices) peers(notice func(string)) *peerMaps {
	if len(h.devices) < 2 {
		return nil
	}
	if h.space.Backend() != vfio.Legacy {
		if text := noPeers(h.withBARs()); text != "" {
			notice(text)
		}
		return nil
	}
	return &peerMaps{host: h, notice: notice, mapped: make(map[uint64]uint64)}
}

// withBARs returns the names of the devices that have memory which others could reach.
func (h *hostDevices) withBARs() (names []string) {
	for _, d := range h.devices {
		if d.function != nil && d.function.Stats().MappedBytes > 0 {
			names = append(names, d.node.Name)
		}
	}
	return names
}

// noPeers says that devices can't reach each other by iommufd, "" where there are not two that could.
func noPeers(names []string) string {
	if len(names) < 2 {
		return ""
	}
	return "no DMA between the devices " + strings.Join(names, ", ") +
		": iommufd does not map their registers and memory (BARs); drivers that need it work with groups, --vfio legacy"
}

func (p *peerMaps) mapPeer(gpa uint64, h pci.Host) {
	bar := p.host.mapping(h.Addr)
	if bar == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.host.space.MapPeer(gpa, bar)
	if err == nil {
		p.mapped[gpa] = h.Size
		return
	}
	if !p.told {
		p.told = true
		p.notice(fmt.Sprintf("no DMA between devices: %v", err))
	}
}

func (p *peerMaps) unmapPeer(gpa uint64, _ pci.Host) {
	p.mu.Lock()
	defer p.mu.Unlock()
	size, ok := p.mapped[gpa]
	if !ok {
		return
	}
	delete(p.mapped, gpa)
	if err := p.host.space.Unmap(gpa, size); err != nil {
		p.notice(fmt.Sprintf("DMA between devices: %v", err))
	}
}

// mapping returns the mapped part of a BAR at an address of this process.
func (h *hostDevices) mapping(addr uintptr) []byte {
	for _, d := range h.devices {
		if b := d.function.Mapping(addr); b != nil {
			return b
		}
	}
	return nil
}
