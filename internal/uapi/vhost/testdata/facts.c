// Prints sizes, offsets and numbers of the vhost ABI, one "name value" per line.
#include <stddef.h>
#include <stdio.h>
#include <linux/vhost.h>

#define S(s) printf(#s " %zu\n", sizeof(struct s))
#define F(s, f) printf(#s "." #f " %zu\n", offsetof(struct s, f))
#define N(n) printf(#n " %#llx\n", (unsigned long long)(n))

int main(void)
{
	S(vhost_memory); F(vhost_memory, nregions);
	S(vhost_memory_region); F(vhost_memory_region, guest_phys_addr); F(vhost_memory_region, memory_size);
	F(vhost_memory_region, userspace_addr);
	S(vhost_vring_state); F(vhost_vring_state, index); F(vhost_vring_state, num);
	S(vhost_vring_file); F(vhost_vring_file, index); F(vhost_vring_file, fd);
	S(vhost_vring_addr); F(vhost_vring_addr, index); F(vhost_vring_addr, flags); F(vhost_vring_addr, desc_user_addr);
	F(vhost_vring_addr, used_user_addr); F(vhost_vring_addr, avail_user_addr); F(vhost_vring_addr, log_guest_addr);
	N(VHOST_GET_FEATURES); N(VHOST_SET_FEATURES); N(VHOST_SET_OWNER); N(VHOST_SET_MEM_TABLE);
	N(VHOST_SET_VRING_NUM); N(VHOST_SET_VRING_ADDR); N(VHOST_SET_VRING_BASE); N(VHOST_SET_VRING_KICK); N(VHOST_SET_VRING_CALL);
	N(VHOST_VSOCK_SET_GUEST_CID); N(VHOST_VSOCK_SET_RUNNING);
	return 0;
}
