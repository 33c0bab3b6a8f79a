package acpi

import "github.com/stile-vmm/stile/internal/layout"

const (
	pciSlots   = 32
	allFuncs   = 0xffff
	configPort = layout.PortPCIAddress
)

// hostBridge is the root of PCI. Each slot's INTA# to INTD# go to fixed pins of the I/O
// APIC, turned by the slot number.
func hostBridge(c Config) term {
	return device("PCI0",
		name("_HID", eisaID("PNP0A08")),
		name("_CID", eisaID("PNP0A03")),
		name("_UID", integer(0)),
		name("_SEG", integer(0)),
		name("_BBN", integer(0)),
		name("_CRS", bridgeResources(c)),
		name("_PRT", interruptRouting()),
		osc(),
	)
}

func bridgeResources(c Config) term {
	windows := []term{
		busNumbers(0, layout.ECAMBuses),
		ioPorts(configPort, 8),
		ioWindow(layout.PIOWindow, layout.PIOWindowSize),
		memWindow32(layout.MMIO32, layout.MMIO32Size),
	}
	if c.MMIO64.Size > 0 {
		windows = append(windows, memWindow64(c.MMIO64.Start, c.MMIO64.Size))
	}
	return resources(windows...)
}

func interruptRouting() term {
	var routes []term
	for slot := range uint64(pciSlots) {
		for pin := range uint64(layout.INTxLines) {
			gsi := layout.GSIINTx + (slot+pin)%layout.INTxLines
			routes = append(routes, list(integer(slot<<16|allFuncs), integer(pin), integer(0), integer(gsi)))
		}
	}
	return list(routes...)
}

// Bits of _OSC's first double word (PCI firmware specification 4.5.1).
const (
	oscUnknownUUID     = 1 << 2
	oscUnknownRevision = 1 << 3
)

// osc hands PCI Express over to the guest: hot plug, power management events, error
// reporting, all that it asks for. There is no firmware that would want to keep any.
func osc() term {
	status := path("CDW1")
	pcie := uuid(0x33db4d5b, 0x1ff7, 0x401c, [8]byte{0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66})
	return method("_OSC", 4,
		dwordField(arg(3), 0, "CDW1"),
		ifThen(equal(arg(0), pcie),
			ifThen(not(equal(arg(1), integer(1))),
				or(status, integer(oscUnknownRevision), status))),
		orElse(or(status, integer(oscUnknownUUID), status)),
		ret(arg(3)),
	)
}
