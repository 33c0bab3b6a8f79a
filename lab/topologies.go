package lab

const plainName = "plain"

// Topologies returns those that stile ships. docs/lab.md has their groups.
func Topologies() []Topology {
	single := func(d Device) Port { return Port{Devices: []Device{d}} }
	edu, card, disk := Device{Kind: EDU}, Device{Kind: E1000E}, Device{Kind: NVMe}
	functions := Port{Devices: []Device{edu, edu, card}}
	bridge := Port{Bridge: true, Devices: []Device{edu, edu, card}}
	return []Topology{
		{Name: plainName},
		{
			Name: "singleton", IOMMU: true, InterruptRemapping: true,
			Ports: []Port{single(edu), single(card), single(disk)},
		},
		{Name: "multifunction", IOMMU: true, InterruptRemapping: true, Ports: []Port{functions}},
		{Name: "bridge", IOMMU: true, InterruptRemapping: true, Ports: []Port{bridge}},
		{Name: "no-iommu", Ports: []Port{single(edu), functions}},
		{Name: "no-remapping", IOMMU: true, Ports: []Port{single(edu)}},
		{
			Name: AllTopology, IOMMU: true, InterruptRemapping: true,
			Ports: []Port{
				single(edu),
				functions,
				bridge,
				single(disk),
				single(card),
				single(Device{Kind: NVMe, VFs: 2}),
				single(Device{Kind: VirtioNet}),
				single(Device{Kind: VirtioBlk}),
				single(Device{Kind: IVShmem, Size: 256}),
				single(Device{Kind: TestDev}),
			},
		},
	}
}

// PlainTopology is the topology without IOMMU and devices.
const PlainTopology = plainName

// AllTopology is the topology with everything that is usable, the default where devices are wanted.
const AllTopology = "all"
