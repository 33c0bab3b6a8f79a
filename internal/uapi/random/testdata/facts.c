// Prints offsets and numbers of the ABI of /dev/random, one "name value" per line.
#include <stddef.h>
#include <stdio.h>
#include <linux/random.h>

#define F(s, f) printf(#s "." #f " %zu\n", offsetof(struct s, f))
#define N(n) printf(#n " %#llx\n", (unsigned long long)(n))

int main(void)
{
	printf("rand_pool_info %zu\n", sizeof(struct rand_pool_info));
	F(rand_pool_info, entropy_count); F(rand_pool_info, buf_size); F(rand_pool_info, buf);
	N(RNDADDENTROPY); N(RNDRESEEDCRNG);
	return 0;
}
