// SPDX-License-Identifier: GPL-2.0-only
/* A module that has its kernel report a fault when it is loaded, the one that its parameter names. */
#include <linux/bottom_half.h>
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/string.h>

static char *what = "warn";
module_param(what, charp, 0444);
MODULE_PARM_DESC(what, "warn, refcount, atomic, oops, bug or hung");

static int *volatile nowhere;

static int __init faults_init(void)
{
	if (!strcmp(what, "warn")) {
		WARN(1, "a warning on demand\n");
	} else if (!strcmp(what, "refcount")) {
		refcount_t r = REFCOUNT_INIT(0);

		refcount_dec(&r);
	} else if (!strcmp(what, "atomic")) {
		local_bh_disable();
		schedule_timeout_uninterruptible(1);
		local_bh_enable();
	} else if (!strcmp(what, "oops")) {
		*nowhere = 1;
	} else if (!strcmp(what, "bug")) {
		BUG();
	} else if (!strcmp(what, "hung")) {
		/* kernel.hung_task_timeout_secs has to be less */
		schedule_timeout_uninterruptible(6 * HZ);
	} else {
		return -EINVAL;
	}
	return -ECANCELED; /* it need not be unloaded */
}

module_init(faults_init);
MODULE_DESCRIPTION("Faults on demand");
MODULE_LICENSE("GPL");
