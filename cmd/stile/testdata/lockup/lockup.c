// SPDX-License-Identifier: GPL-2.0-only
/* A module that keeps a CPU from the kernel's threads for ten seconds, with interrupts on: a soft lockup. */
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/preempt.h>

static int __init lockup_init(void)
{
	preempt_disable();
	mdelay(10000);
	preempt_enable();
	return 0;
}

static void __exit lockup_exit(void)
{
}

module_init(lockup_init);
module_exit(lockup_exit);
MODULE_DESCRIPTION("A soft lockup");
MODULE_LICENSE("GPL");
