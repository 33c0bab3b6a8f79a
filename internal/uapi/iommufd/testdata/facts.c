// Prints sizes, offsets and numbers of the iommufd ABI, one "name value" per line.
#include <stddef.h>
#include <stdio.h>
#include <linux/iommufd.h>

#define S(s) printf(#s " %zu\n", sizeof(struct s))
#define F(s, f) printf(#s "." #f " %zu\n", offsetof(struct s, f))
#define N(n) printf(#n " %#llx\n", (unsigned long long)(n))

int main(void)
{
	S(iommu_destroy); F(iommu_destroy, size); F(iommu_destroy, id);
	S(iommu_ioas_alloc); F(iommu_ioas_alloc, size); F(iommu_ioas_alloc, flags); F(iommu_ioas_alloc, out_ioas_id);
	S(iommu_iova_range); F(iommu_iova_range, start); F(iommu_iova_range, last);
	S(iommu_ioas_iova_ranges); F(iommu_ioas_iova_ranges, size); F(iommu_ioas_iova_ranges, ioas_id);
	F(iommu_ioas_iova_ranges, num_iovas); F(iommu_ioas_iova_ranges, __reserved);
	F(iommu_ioas_iova_ranges, allowed_iovas); F(iommu_ioas_iova_ranges, out_iova_alignment);
	S(iommu_ioas_allow_iovas); F(iommu_ioas_allow_iovas, size); F(iommu_ioas_allow_iovas, ioas_id);
	F(iommu_ioas_allow_iovas, num_iovas); F(iommu_ioas_allow_iovas, __reserved); F(iommu_ioas_allow_iovas, allowed_iovas);
	S(iommu_ioas_map); F(iommu_ioas_map, size); F(iommu_ioas_map, flags); F(iommu_ioas_map, ioas_id);
	F(iommu_ioas_map, __reserved); F(iommu_ioas_map, user_va); F(iommu_ioas_map, length); F(iommu_ioas_map, iova);
	S(iommu_ioas_copy); F(iommu_ioas_copy, size); F(iommu_ioas_copy, flags); F(iommu_ioas_copy, dst_ioas_id);
	F(iommu_ioas_copy, src_ioas_id); F(iommu_ioas_copy, length); F(iommu_ioas_copy, dst_iova); F(iommu_ioas_copy, src_iova);
	S(iommu_ioas_unmap); F(iommu_ioas_unmap, size); F(iommu_ioas_unmap, ioas_id); F(iommu_ioas_unmap, iova);
	F(iommu_ioas_unmap, length);
	S(iommu_option); F(iommu_option, size); F(iommu_option, option_id); F(iommu_option, op); F(iommu_option, __reserved);
	F(iommu_option, object_id); F(iommu_option, val64);
	N(IOMMU_DESTROY); N(IOMMU_IOAS_ALLOC); N(IOMMU_IOAS_ALLOW_IOVAS); N(IOMMU_IOAS_COPY); N(IOMMU_IOAS_IOVA_RANGES);
	N(IOMMU_IOAS_MAP); N(IOMMU_IOAS_UNMAP); N(IOMMU_OPTION);
	N(IOMMU_IOAS_MAP_FIXED_IOVA); N(IOMMU_IOAS_MAP_WRITEABLE); N(IOMMU_IOAS_MAP_READABLE);
	N(IOMMU_OPTION_RLIMIT_MODE); N(IOMMU_OPTION_HUGE_PAGES); N(IOMMU_OPTION_OP_SET); N(IOMMU_OPTION_OP_GET);
	return 0;
}
