package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/vmm"
)

// printDevicePlan tells what the run would do with its devices, and does nothing.
func (f *runFlags) printDevicePlan() error {
	if len(f.spec.Devices) == 0 {
		return f.fail(errors.New("--dry-run tells what --device would do: name a device"))
	}
	p, err := guest.PlanDevices(f.spec)
	if err != nil {
		return f.fail(err)
	}
	if p.Bind != nil {
		if err := printPlan(p.Bind, false); err != nil {
			return f.fail(err)
		}
	}
	for _, d := range p.Devices {
		printPlannedDevice(d)
	}
	fmt.Println("what can be mapped of memory BARs is a memory slot each: not the pages of MSI-X tables and pending bits")
	for _, r := range p.RAM {
		fmt.Printf("RAM %#x-%#x (%v): one memory slot, one DMA map\n", r.Start, r.Last, vmm.Bytes(r.Last-r.Start+1))
	}
	if p.PinFault != "" {
		return f.fail(errors.New(p.PinFault))
	}
	fmt.Printf("%v of memory are pinned, which the limit allows\n", vmm.Bytes(p.Pinned))
	return nil
}

// plannedTitle names a device, and the function that it stands for if it is a mediated one.
func plannedTitle(d guest.PlannedDevice) string {
	title := d.Name
	if d.Function != "" {
		title += " of " + d.Function
	}
	if d.Title != "" {
		title += "  " + d.Title
	}
	return title
}

func printPlannedDevice(d guest.PlannedDevice) {
	fmt.Println(plannedTitle(d))
	if d.Group >= 0 {
		fmt.Printf("  IOMMU group %d: %s\n", d.Group, strings.Join(d.Members, " "))
	}
	for _, r := range d.Reserved {
		fmt.Printf("  reserved for it: %#x-%#x (%s)\n", r.Start, r.End, r.Type)
	}
	for _, b := range d.BARs {
		name := fmt.Sprintf("BAR %d", b.Index)
		if b.Index == hostpci.ROM {
			name = "ROM"
		}
		fmt.Printf("  %s: %v, %s, at %#x\n", name, vmm.Bytes(b.Size), b.Kind(), b.Guest)
	}
	if d.Resettable != nil && !*d.Resettable {
		fmt.Println("  no reset of its own")
	}
}
