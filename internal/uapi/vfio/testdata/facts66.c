// Prints what the VFIO ABI got with Linux 6.6 (character devices, iommufd), one "name value" per line.
#include <stddef.h>
#include <stdio.h>
#include <linux/vfio.h>

#define S(s) printf(#s " %zu\n", sizeof(struct s))
#define F(s, f) printf(#s "." #f " %zu\n", offsetof(struct s, f))
#define N(n) printf(#n " %#llx\n", (unsigned long long)(n))
#define U(n) printf(#n " %#x\n", (unsigned)(n))

int main(void)
{
	S(vfio_device_info); F(vfio_device_info, pad);
	F(vfio_iommu_type1_info, pad); F(vfio_device_ioeventfd, reserved);
	S(vfio_device_bind_iommufd); F(vfio_device_bind_iommufd, argsz); F(vfio_device_bind_iommufd, flags);
	F(vfio_device_bind_iommufd, iommufd); F(vfio_device_bind_iommufd, out_devid);
	S(vfio_device_attach_iommufd_pt); F(vfio_device_attach_iommufd_pt, argsz); F(vfio_device_attach_iommufd_pt, flags);
	F(vfio_device_attach_iommufd_pt, pt_id);
	S(vfio_device_detach_iommufd_pt); F(vfio_device_detach_iommufd_pt, argsz); F(vfio_device_detach_iommufd_pt, flags);
	F(vfio_pci_dependent_device, devid);
	N(VFIO_DEVICE_BIND_IOMMUFD); N(VFIO_DEVICE_ATTACH_IOMMUFD_PT); N(VFIO_DEVICE_DETACH_IOMMUFD_PT);
	N(VFIO_PCI_HOT_RESET_FLAG_DEV_ID); N(VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED);
	U(VFIO_PCI_DEVID_OWNED); U(VFIO_PCI_DEVID_NOT_OWNED);
	return 0;
}
