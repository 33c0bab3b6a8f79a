package acpi

import "github.com/stile-vmm/stile/internal/layout"

// dsdtRevision 2 makes integers 64 bits wide.
const dsdtRevision = 2

// dsdt returns the differentiated system description table: the devices that cannot
// be found otherwise.
func dsdt(c Config) []byte {
	body := join(
		scope(`\_SB`, systemBus(c)...),
		name(`\_S5`, list(integer(layout.SleepTypeS5), integer(layout.SleepTypeS5), integer(0), integer(0))),
	)
	return table("DSDT", dsdtRevision, body)
}

func systemBus(c Config) []term {
	devices := []term{hostBridge(c), motherboard()}
	if c.COM1 {
		devices = append(devices, com1())
	}
	if c.RTC {
		devices = append(devices, rtc())
	}
	if c.PVPanic {
		devices = append(devices, pvPanic())
	}
	for n := range c.CPUs {
		devices = append(devices, cpu(n))
	}
	return devices
}

// motherboard reserves what no driver claims: PCI's configuration space, as the PCI
// firmware specification asks for, and the power management ports.
func motherboard() term {
	return device("MBRD",
		name("_HID", eisaID("PNP0C02")),
		name("_UID", integer(0)),
		name("_CRS", resources(
			memory32(layout.ECAM, layout.ECAMSize),
			ioPorts(layout.PortPMBlock, layout.PortPMBlockLen),
		)),
	)
}

func com1() term {
	return device("COM1",
		name("_HID", eisaID("PNP0501")),
		name("_UID", integer(1)),
		name("_CRS", resources(ioPorts(layout.PortCOM1, 8), isaIRQ(layout.GSICOM1))),
	)
}

func rtc() term {
	return device("RTC",
		name("_HID", eisaID("PNP0B00")),
		name("_CRS", resources(ioPorts(layout.PortRTC, 2), isaIRQ(layout.GSIRTC))),
	)
}

func pvPanic() term {
	return device("PEVT",
		name("_HID", text("QEMU0001")),
		name("_CRS", resources(ioPorts(layout.PortPVPanic, 1))),
	)
}

// cpu is a processor; its _UID ties it to the MADT.
func cpu(n int) term {
	return device(cpuName(n), name("_HID", text("ACPI0007")), name("_UID", integer(uint64(n))))
}
