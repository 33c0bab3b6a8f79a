package hostpci

// classNames are the names of base classes and subclasses (PCI Code and ID Assignment Specification, 1), in lspci's words.
var classNames = map[Class]string{
	0x00: "Unclassified device",
	0x01: "Mass storage controller", 0x0100: "SCSI storage controller", 0x0101: "IDE interface", 0x0104: "RAID bus controller",
	0x0106: "SATA controller", 0x0107: "Serial Attached SCSI controller", 0x0108: "Non-Volatile memory controller",
	0x02: "Network controller", 0x0200: "Ethernet controller", 0x0207: "Infiniband controller", 0x0208: "Fabric controller",
	0x03: "Display controller", 0x0300: "VGA compatible controller", 0x0302: "3D controller",
	0x04: "Multimedia controller", 0x0401: "Multimedia audio controller", 0x0403: "Audio device",
	0x05: "Memory controller", 0x0500: "RAM memory", 0x0502: "CXL",
	0x06: "Bridge", 0x0600: "Host bridge", 0x0601: "ISA bridge", 0x0604: "PCI bridge",
	0x07: "Communication controller", 0x0700: "Serial controller",
	0x08: "Generic system peripheral", 0x0805: "SD Host controller", 0x0806: "IOMMU",
	0x09: "Input device controller",
	0x0a: "Docking station",
	0x0b: "Processor", 0x0b40: "Co-processor",
	0x0c: "Serial bus controller", 0x0c00: "FireWire (IEEE 1394)", 0x0c03: "USB controller", 0x0c04: "Fibre Channel", 0x0c05: "SMBus",
	0x0d: "Wireless controller", 0x0d11: "Bluetooth",
	0x0e: "Intelligent controller",
	0x0f: "Satellite communications controller",
	0x10: "Encryption controller",
	0x11: "Signal processing controller",
	0x12: "Processing accelerators",
	0x13: "Non-Essential Instrumentation",
	0x40: "Coprocessor",
}

// className returns the name of a class's subclass, or of its base class, "" where it has neither.
func className(c Class) string {
	if name, ok := classNames[c>>8]; ok && c>>8 > 0xff {
		return name
	}
	return classNames[c>>16]
}
