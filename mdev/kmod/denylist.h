/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Functions that vfio-pci refuses, and so does this module: they have faults that
 * let who uses them harm the host. An untrusted user of a wrapped function has no
 * less of it than of one on vfio-pci.
 *
 * A table, and not a switch in the driver, so that a test can compare it with what
 * stile knows. The IDs are those of linux/pci_ids.h.
 */
#ifndef MP_DENYLIST_H
#define MP_DENYLIST_H

struct mp_denied_id {
	unsigned short vendor, device;
};

static const struct mp_denied_id mp_denylist[] = {
	{ 0x8086, 0x0435 },	/* QAT DH895xCC */
	{ 0x8086, 0x0443 },	/* QAT DH895xCC, virtual function */
	{ 0x8086, 0x0b25 },	/* DSA, first stepping (Sapphire Rapids) */
	{ 0x8086, 0x0cfe },	/* IAX, first stepping (Sapphire Rapids) */
	{ 0x8086, 0x19e2 },	/* QAT C3xxx */
	{ 0x8086, 0x19e3 },	/* QAT C3xxx, virtual function */
	{ 0x8086, 0x37c8 },	/* QAT C62x */
	{ 0x8086, 0x37c9 },	/* QAT C62x, virtual function */
};

#define MP_DENYLIST_LEN (sizeof(mp_denylist) / sizeof(mp_denylist[0]))

static inline int mp_in_denylist(unsigned short vendor, unsigned short device)
{
	unsigned int i;

	for (i = 0; i < MP_DENYLIST_LEN; i++)
		if (mp_denylist[i].vendor == vendor &&
		    mp_denylist[i].device == device)
			return 1;
	return 0;
}

#endif
