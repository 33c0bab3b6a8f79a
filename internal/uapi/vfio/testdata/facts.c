// Prints sizes, offsets and numbers of the VFIO ABI that Linux 6.1 has, one "name value" per line.
#include <stddef.h>
#include <stdio.h>
#include <linux/vfio.h>

#define S(s) printf(#s " %zu\n", sizeof(struct s))
#define F(s, f) printf(#s "." #f " %zu\n", offsetof(struct s, f))
#define N(n) printf(#n " %#llx\n", (unsigned long long)(n))

static void structs(void)
{
	S(vfio_group_status); F(vfio_group_status, argsz); F(vfio_group_status, flags);
	S(vfio_info_cap_header); F(vfio_info_cap_header, id); F(vfio_info_cap_header, version); F(vfio_info_cap_header, next);
	F(vfio_device_info, argsz); F(vfio_device_info, flags); F(vfio_device_info, num_regions);
	F(vfio_device_info, num_irqs); F(vfio_device_info, cap_offset);
	S(vfio_region_info); F(vfio_region_info, argsz); F(vfio_region_info, flags); F(vfio_region_info, index);
	F(vfio_region_info, cap_offset); F(vfio_region_info, size); F(vfio_region_info, offset);
	S(vfio_region_info_cap_sparse_mmap); F(vfio_region_info_cap_sparse_mmap, header);
	F(vfio_region_info_cap_sparse_mmap, nr_areas); F(vfio_region_info_cap_sparse_mmap, reserved);
	F(vfio_region_info_cap_sparse_mmap, areas);
	S(vfio_region_sparse_mmap_area); F(vfio_region_sparse_mmap_area, offset); F(vfio_region_sparse_mmap_area, size);
	S(vfio_region_info_cap_type); F(vfio_region_info_cap_type, header); F(vfio_region_info_cap_type, type);
	F(vfio_region_info_cap_type, subtype);
	S(vfio_irq_info); F(vfio_irq_info, argsz); F(vfio_irq_info, flags); F(vfio_irq_info, index); F(vfio_irq_info, count);
	S(vfio_irq_set); F(vfio_irq_set, argsz); F(vfio_irq_set, flags); F(vfio_irq_set, index); F(vfio_irq_set, start);
	F(vfio_irq_set, count); F(vfio_irq_set, data);
	S(vfio_pci_hot_reset_info); F(vfio_pci_hot_reset_info, argsz); F(vfio_pci_hot_reset_info, flags);
	F(vfio_pci_hot_reset_info, count); F(vfio_pci_hot_reset_info, devices);
	S(vfio_pci_dependent_device); F(vfio_pci_dependent_device, group_id); F(vfio_pci_dependent_device, segment);
	F(vfio_pci_dependent_device, bus); F(vfio_pci_dependent_device, devfn);
	S(vfio_pci_hot_reset); F(vfio_pci_hot_reset, argsz); F(vfio_pci_hot_reset, flags); F(vfio_pci_hot_reset, count);
	F(vfio_pci_hot_reset, group_fds);
	S(vfio_device_ioeventfd); F(vfio_device_ioeventfd, argsz); F(vfio_device_ioeventfd, flags);
	F(vfio_device_ioeventfd, offset); F(vfio_device_ioeventfd, data); F(vfio_device_ioeventfd, fd);
	S(vfio_device_feature); F(vfio_device_feature, argsz); F(vfio_device_feature, flags); F(vfio_device_feature, data);
	S(vfio_iommu_type1_info); F(vfio_iommu_type1_info, argsz); F(vfio_iommu_type1_info, flags);
	F(vfio_iommu_type1_info, iova_pgsizes); F(vfio_iommu_type1_info, cap_offset);
	S(vfio_iommu_type1_info_cap_iova_range); F(vfio_iommu_type1_info_cap_iova_range, header);
	F(vfio_iommu_type1_info_cap_iova_range, nr_iovas); F(vfio_iommu_type1_info_cap_iova_range, reserved);
	F(vfio_iommu_type1_info_cap_iova_range, iova_ranges);
	S(vfio_iova_range); F(vfio_iova_range, start); F(vfio_iova_range, end);
	S(vfio_iommu_type1_info_dma_avail); F(vfio_iommu_type1_info_dma_avail, header); F(vfio_iommu_type1_info_dma_avail, avail);
	S(vfio_iommu_type1_dma_map); F(vfio_iommu_type1_dma_map, argsz); F(vfio_iommu_type1_dma_map, flags);
	F(vfio_iommu_type1_dma_map, vaddr); F(vfio_iommu_type1_dma_map, iova); F(vfio_iommu_type1_dma_map, size);
	S(vfio_iommu_type1_dma_unmap); F(vfio_iommu_type1_dma_unmap, argsz); F(vfio_iommu_type1_dma_unmap, flags);
	F(vfio_iommu_type1_dma_unmap, iova); F(vfio_iommu_type1_dma_unmap, size);
}

static void numbers(void)
{
	N(VFIO_API_VERSION);
	N(VFIO_GET_API_VERSION); N(VFIO_CHECK_EXTENSION); N(VFIO_SET_IOMMU); N(VFIO_IOMMU_GET_INFO); N(VFIO_IOMMU_MAP_DMA);
	N(VFIO_IOMMU_UNMAP_DMA); N(VFIO_GROUP_GET_STATUS); N(VFIO_GROUP_SET_CONTAINER); N(VFIO_GROUP_UNSET_CONTAINER);
	N(VFIO_GROUP_GET_DEVICE_FD); N(VFIO_DEVICE_GET_INFO); N(VFIO_DEVICE_GET_REGION_INFO); N(VFIO_DEVICE_GET_IRQ_INFO);
	N(VFIO_DEVICE_SET_IRQS); N(VFIO_DEVICE_RESET); N(VFIO_DEVICE_GET_PCI_HOT_RESET_INFO); N(VFIO_DEVICE_PCI_HOT_RESET);
	N(VFIO_DEVICE_IOEVENTFD); N(VFIO_DEVICE_FEATURE);
	N(VFIO_TYPE1_IOMMU); N(VFIO_TYPE1v2_IOMMU); N(VFIO_NOIOMMU_IOMMU); N(VFIO_UNMAP_ALL);
	N(VFIO_GROUP_FLAGS_VIABLE); N(VFIO_GROUP_FLAGS_CONTAINER_SET);
	N(VFIO_DEVICE_FLAGS_RESET); N(VFIO_DEVICE_FLAGS_PCI); N(VFIO_DEVICE_FLAGS_CAPS);
	N(VFIO_REGION_INFO_FLAG_READ); N(VFIO_REGION_INFO_FLAG_WRITE); N(VFIO_REGION_INFO_FLAG_MMAP); N(VFIO_REGION_INFO_FLAG_CAPS);
	N(VFIO_REGION_INFO_CAP_SPARSE_MMAP); N(VFIO_REGION_INFO_CAP_TYPE); N(VFIO_REGION_INFO_CAP_MSIX_MAPPABLE);
	N(VFIO_PCI_BAR0_REGION_INDEX); N(VFIO_PCI_BAR5_REGION_INDEX); N(VFIO_PCI_ROM_REGION_INDEX);
	N(VFIO_PCI_CONFIG_REGION_INDEX); N(VFIO_PCI_VGA_REGION_INDEX); N(VFIO_PCI_NUM_REGIONS);
	N(VFIO_IRQ_INFO_EVENTFD); N(VFIO_IRQ_INFO_MASKABLE); N(VFIO_IRQ_INFO_AUTOMASKED); N(VFIO_IRQ_INFO_NORESIZE);
	N(VFIO_IRQ_SET_DATA_NONE); N(VFIO_IRQ_SET_DATA_BOOL); N(VFIO_IRQ_SET_DATA_EVENTFD); N(VFIO_IRQ_SET_ACTION_MASK);
	N(VFIO_IRQ_SET_ACTION_UNMASK); N(VFIO_IRQ_SET_ACTION_TRIGGER);
	N(VFIO_PCI_INTX_IRQ_INDEX); N(VFIO_PCI_MSI_IRQ_INDEX); N(VFIO_PCI_MSIX_IRQ_INDEX); N(VFIO_PCI_ERR_IRQ_INDEX);
	N(VFIO_PCI_REQ_IRQ_INDEX); N(VFIO_PCI_NUM_IRQS);
	N(VFIO_DEVICE_FEATURE_MASK); N(VFIO_DEVICE_FEATURE_GET); N(VFIO_DEVICE_FEATURE_SET); N(VFIO_DEVICE_FEATURE_PROBE);
	N(VFIO_DEVICE_FEATURE_PCI_VF_TOKEN); N(VFIO_DEVICE_FEATURE_MIGRATION); N(VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY);
	N(VFIO_DEVICE_IOEVENTFD_8); N(VFIO_DEVICE_IOEVENTFD_16); N(VFIO_DEVICE_IOEVENTFD_32); N(VFIO_DEVICE_IOEVENTFD_64);
	N(VFIO_IOMMU_INFO_PGSIZES); N(VFIO_IOMMU_INFO_CAPS);
	N(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE); N(VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION); N(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL);
	N(VFIO_DMA_MAP_FLAG_READ); N(VFIO_DMA_MAP_FLAG_WRITE); N(VFIO_DMA_UNMAP_FLAG_ALL);
}

int main(void)
{
	structs();
	numbers();
	return 0;
}
