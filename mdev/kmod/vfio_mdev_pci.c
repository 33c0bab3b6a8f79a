// SPDX-License-Identifier: GPL-2.0-only
/*
 * vfio-mdev-pci - a whole PCI function as one mediated device
 *
 * The function, the parent, is bound to the PCI driver of this file, which
 * leaves it idle. A mediated device made of it is vfio-pci-core's device on the
 * parent: it has the parent's IOMMU group, its requester ID and its resets.
 *
 * The parent donates its group. Its driver says driver_managed_dma, so the
 * driver core does not claim the group's DMA for the kernel when it binds, and
 * VFIO can claim it for a user.
 *
 * Only the mediated device can be opened, by its UUID. The parent registers
 * nothing with VFIO, and the VFIO device does not answer to its address.
 *
 * LOCKS
 *
 *   The driver core and the mdev core call this driver with these held:
 *
 *     unbind of the parent, unplug, rmmod:
 *         parent's device lock > unreg_sem (write) > mdev's device lock
 *     a write to the mdev's remove:
 *                                unreg_sem (read)  > mdev's device lock
 *
 *   vfio_pci_core_unregister_device() wants the parent's device lock held. In
 *   the second case it is not, and to take it there would be to wait for an
 *   unbind that waits for unreg_sem. So the removal of the mdev doesn't
 *   unregister the VFIO device. Who holds the parent's device lock does, in
 *   mp_retire():
 *
 *     - a work item that takes that lock and no other, which the removal
 *       queues, or
 *     - the unbind, before it asks for unreg_sem.
 *
 *   Whoever is first does it. The removal waits for neither of them but only
 *   for the fact, mp_device.retired, so that an unbind which holds up the work
 *   item has done its work itself. Once an unbind has begun no device is made
 *   any more (mp_parent.going), hence a removal that an unbind causes finds the
 *   fact and does not wait.
 *
 *   mp_parent.lock guards device and going; a device is registered under it.
 *   It is taken below all of the above. mp_drvdata_lock is the innermost.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/completion.h>
#include <linux/device.h>
#include <linux/iommu.h>
#include <linux/kernfs.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mdev.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/sysfs.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>
#include <linux/workqueue.h>

#include "denylist.h"

#define MP_NAME "vfio-mdev-pci"

static bool disable_denylist;
module_param(disable_denylist, bool, 0644);
MODULE_PARM_DESC(disable_denylist,
		 "Wrap functions that vfio-pci refuses, too: they have faults by which who uses them can harm the host");

/*
 * The kernel itself puts no mediated device into a group's folder, and libvirt,
 * say, takes every name in there for a PCI address and gives up at another.
 */
static bool group_link;
module_param(group_link, bool, 0644);
MODULE_PARM_DESC(group_link,
		 "Name mediated devices in the devices folder of their IOMMU group, too");

/*
 * Until 7.2 these are vfio-pci's, which sets them in the core for all devices.
 * From then on each device has its own, which are taken when it is made.
 */
#ifdef MP_HAS_DISABLE_IDLE_D3
static bool disable_idle_d3;
module_param(disable_idle_d3, bool, 0644);
MODULE_PARM_DESC(disable_idle_d3, "Leave wrapped functions that are not in use in D0");
#endif
#ifdef MP_HAS_NOINTXMASK
static bool nointxmask;
module_param(nointxmask, bool, 0644);
MODULE_PARM_DESC(nointxmask, "Do not mask INTx by the command register");
#endif
#ifdef MP_HAS_DISABLE_VGA
static bool disable_vga;
module_param(disable_vga, bool, 0644);
MODULE_PARM_DESC(disable_vga, "Offer no legacy VGA ranges");
#endif

/* One of each bound PCI function. */
struct mp_parent {
	struct kref ref;		/* the binding, and queued work */
	struct list_head node;		/* in mp_parents */
	struct pci_dev *pdev;
	struct work_struct retire;	/* mp_retire_work() */
	struct mutex lock;		/* device, going */
	struct mp_device *device;	/* registered with VFIO, or NULL */
	bool going;			/* the driver is being unbound */
	struct mdev_parent mdev;
	struct mdev_type type;
	struct mdev_type *types;		/* &type: all there are */
};

/* One of each mediated device. */
struct mp_device {
	struct vfio_pci_core_device core;	/* vfio_alloc_device: first */
	struct mdev_device *mdev;
	struct iommu_group *group;
	struct kobject *group_devices;		/* if its name is in there */
	struct completion retired;		/* VFIO knows it no more */
};

static LIST_HEAD(mp_parents);
static DEFINE_MUTEX(mp_parents_lock);
/*
 * The core finds its device in the pdev's drvdata, so the parent can't be there.
 * The lock keeps the device while error recovery uses it.
 */
static DEFINE_MUTEX(mp_drvdata_lock);
static struct workqueue_struct *mp_workqueue;

static struct mp_device *mp_of_vfio(struct vfio_device *vdev)
{
	return container_of(vdev, struct mp_device, core.vdev);
}

static struct mp_parent *mp_parent_of(struct mdev_device *mdev)
{
	return container_of(mdev->type->parent, struct mp_parent, mdev);
}

static void mp_parent_release(struct kref *ref)
{
	struct mp_parent *p = container_of(ref, struct mp_parent, ref);

	pci_dev_put(p->pdev);
	/*
	 * An mdev that somebody holds a reference to uses its parent and type when
	 * it is released. The mdev core has no way to wait for that: leave them.
	 */
	if (kref_read(&p->type.kobj.kref)) {
		pr_warn("an mdev outlives its parent; %zu bytes stay allocated\n",
			sizeof(*p));
		return;
	}
	mutex_destroy(&p->lock);
	kfree(p);
}

static void mp_set_drvdata(struct pci_dev *pdev, void *data)
{
	mutex_lock(&mp_drvdata_lock);
	pci_set_drvdata(pdev, data);
	mutex_unlock(&mp_drvdata_lock);
}

/*
 * The VFIO device
 */

#ifdef MP_HAS_DMABUF
static const struct vfio_pci_device_ops mp_pci_ops = {
	.get_dmabuf_phys = vfio_pci_core_get_dmabuf_phys,
};
#endif

/* Sets what the core leaves to the driver, after its own init. */
static void mp_set_params(struct vfio_pci_core_device *core)
{
#ifdef MP_HAS_DMABUF
	core->pci_ops = &mp_pci_ops;
#endif
#ifdef MP_HAS_DISABLE_IDLE_D3
	core->disable_idle_d3 = disable_idle_d3;
#endif
#ifdef MP_HAS_NOINTXMASK
	core->nointxmask = nointxmask;
#endif
#ifdef MP_HAS_DISABLE_VGA
	core->disable_vga = disable_vga;
#endif
}

static int mp_vfio_init(struct vfio_device *vdev)
{
	struct mp_device *mp = mp_of_vfio(vdev);
	struct device *mdev_dev = vdev->dev;
	int ret;

	mp->mdev = to_mdev_device(mdev_dev);
	init_completion(&mp->retired);
	/* The core takes vdev->dev for its PCI device, here and later on. */
	vdev->dev = mp->mdev->type->parent->dev;
	ret = vfio_pci_core_init_dev(vdev);
	if (!ret)
		mp_set_params(&mp->core);
	/* But vfio-dev/vfioN shall be below the mdev, where it is looked for. */
	vdev->dev = mdev_dev;
	return ret;
}

static int mp_vfio_open(struct vfio_device *vdev)
{
	struct mp_device *mp = mp_of_vfio(vdev);
	int ret;

	ret = vfio_pci_core_enable(&mp->core);
	if (ret)
		return ret;
	vfio_pci_core_finish_enable(&mp->core);
	return 0;
}

/*
 * A user asks a group for "NAME" or, of a virtual function, "NAME vf_token=UUID".
 * The name must be ours. The core, which checks the token, expects the parent's.
 */
static int mp_vfio_match(struct vfio_device *vdev, char *buf)
{
	struct mp_device *mp = mp_of_vfio(vdev);
	const char *name = dev_name(&mp->mdev->dev);
	size_t len = strlen(name);
	char *parents;
	int ret;

	if (strncmp(buf, name, len) || (buf[len] && buf[len] != ' '))
		return 0;
	parents = kasprintf(GFP_KERNEL, "%s%s", pci_name(mp->core.pdev),
			    buf + len);
	if (!parents)
		return -ENOMEM;
	ret = vfio_pci_core_match(vdev, parents);
	kfree(parents);
	return ret;
}

static const struct vfio_device_ops mp_vfio_ops = {
	.name		= MP_NAME,
	.init		= mp_vfio_init,
	.release	= vfio_pci_core_release_dev,
	.open_device	= mp_vfio_open,
	.close_device	= vfio_pci_core_close_device,
	.ioctl		= vfio_pci_core_ioctl,
	.device_feature	= vfio_pci_core_ioctl_feature,
	.read		= vfio_pci_core_read,
	.write		= vfio_pci_core_write,
	.mmap		= vfio_pci_core_mmap,
	.request	= vfio_pci_core_request,
	.match		= mp_vfio_match,
#ifdef MP_HAS_IOMMUFD
	.bind_iommufd	= vfio_iommufd_physical_bind,
	.unbind_iommufd	= vfio_iommufd_physical_unbind,
	.attach_ioas	= vfio_iommufd_physical_attach_ioas,
#endif
#ifdef MP_HAS_DETACH_IOAS
	.detach_ioas	= vfio_iommufd_physical_detach_ioas,
#endif
#ifdef MP_HAS_PASID
	.pasid_attach_ioas = vfio_iommufd_physical_pasid_attach_ioas,
	.pasid_detach_ioas = vfio_iommufd_physical_pasid_detach_ioas,
#endif
#ifdef MP_HAS_REGION_INFO_CAPS
	.get_region_info_caps = vfio_pci_ioctl_get_region_info,
#endif
#ifdef MP_HAS_TOKEN_UUID
	.match_token_uuid = vfio_pci_core_match_token_uuid,
#endif
};

/*
 * The mdev in its parent's group
 *
 * iommu_group_add_device() is not for it: the IOMMU driver would be asked to
 * attach each device of the group, and an mdev has no requester ID of its own.
 * Being in the group is what its link iommu_group in sysfs says, as of every
 * member, and what vfio_device.dev says, which is the parent. The other link of
 * members, from the group's folder, is made only where group_link asks for it.
 */

/* Struct iommu_group is opaque: its kobjects are reached as sysfs shows them. */
static struct kobject *mp_kobject_at(struct kobject *kobj, const char *name)
{
	struct kernfs_node *kn = kernfs_find_and_get(kobj->sd, name);
	struct kobject *found = NULL;

	if (!kn)
		return NULL;
	if (kernfs_type(kn) == KERNFS_LINK)
		found = kn->symlink.target_kn->priv;
	else if (kernfs_type(kn) == KERNFS_DIR)
		found = kn->priv;
	kernfs_put(kn);
	return found;
}

static int mp_link_group(struct mp_device *mp, struct kobject *group)
{
	struct device *dev = &mp->mdev->dev;
	struct kobject *devices;
	int ret;

	if (!group_link)
		return 0;
	devices = mp_kobject_at(group, "devices");
	if (!devices)
		return -ENOENT;
	ret = sysfs_create_link(devices, &dev->kobj, dev_name(dev));
	if (!ret)
		mp->group_devices = devices;
	return ret;
}

static int mp_join_group(struct mp_device *mp)
{
	struct device *dev = &mp->mdev->dev;
	struct device *parent = &mp->core.pdev->dev;
	struct kobject *group;
	int ret = -ENOENT;

	/* The reference keeps the group's kobjects, too. */
	mp->group = iommu_group_get(parent);
	if (!mp->group)
		return -ENODEV;
	group = mp_kobject_at(&parent->kobj, "iommu_group");
	if (!group)
		goto err_put;
	ret = sysfs_create_link(&dev->kobj, group, "iommu_group");
	if (ret)
		goto err_put;
	ret = mp_link_group(mp, group);
	if (ret)
		goto err_unlink;
	return 0;

err_unlink:
	sysfs_remove_link(&dev->kobj, "iommu_group");
err_put:
	iommu_group_put(mp->group);
	return ret;
}

static void mp_leave_group(struct mp_device *mp)
{
	struct device *dev = &mp->mdev->dev;

	if (mp->group_devices)
		sysfs_remove_link(mp->group_devices, dev_name(dev));
	sysfs_remove_link(&dev->kobj, "iommu_group");
	iommu_group_put(mp->group);
}

/*
 * The end of a VFIO device: see LOCKS
 */

/* Waits for the device's user. The caller holds the parent's device lock. */
static void mp_retire(struct mp_parent *p)
{
	struct mp_device *mp;

	device_lock_assert(&p->pdev->dev);
	mutex_lock(&p->lock);
	mp = p->device;
	p->device = NULL;
	mutex_unlock(&p->lock);
	if (!mp)
		return;
	vfio_pci_core_unregister_device(&mp->core);
	mp_set_drvdata(p->pdev, NULL);
	complete_all(&mp->retired);	/* and mp may be gone */
}

static void mp_retire_work(struct work_struct *work)
{
	struct mp_parent *p = container_of(work, struct mp_parent, retire);

	device_lock(&p->pdev->dev);
	mp_retire(p);
	device_unlock(&p->pdev->dev);
	kref_put(&p->ref, mp_parent_release);
}

static void mp_await_retired(struct mp_parent *p, struct mp_device *mp)
{
	bool told = false;

	if (completion_done(&mp->retired))
		return;
	kref_get(&p->ref);
	if (!queue_work(mp_workqueue, &p->retire))
		kref_put(&p->ref, mp_parent_release);
	/* In turns: to wait for a user is no hung task. */
	while (!wait_for_completion_timeout(&mp->retired, 10 * HZ)) {
		if (!told)
			dev_warn(&mp->mdev->dev,
				 "in use: it is removed when it is closed\n");
		told = true;
	}
}

/*
 * The driver of mediated devices
 */

/* Registers the device, unless its parent is about to go. */
static int mp_register(struct mp_parent *p, struct mp_device *mp)
{
	int ret = -ENODEV;

	mutex_lock(&p->lock);
	if (p->going)
		goto out;
	mp->core.vdev.dev = &p->pdev->dev;	/* whose DMA and group it is */
	mp_set_drvdata(p->pdev, &mp->core);	/* the core insists */
	ret = vfio_pci_core_register_device(&mp->core);
	if (ret)
		mp_set_drvdata(p->pdev, NULL);
	else
		p->device = mp;
out:
	mutex_unlock(&p->lock);
	return ret;
}

static int mp_mdev_probe(struct mdev_device *mdev)
{
	struct mp_parent *p = mp_parent_of(mdev);
	struct mp_device *mp;
	int ret;

	mp = vfio_alloc_device(mp_device, core.vdev, &mdev->dev, &mp_vfio_ops);
	if (IS_ERR(mp))
		return PTR_ERR(mp);
	ret = mp_join_group(mp);
	if (ret)
		goto err_put;
	dev_set_drvdata(&mdev->dev, mp);
	ret = mp_register(p, mp);
	if (ret)
		goto err_leave;
	dev_info(&mdev->dev, "IOMMU group %d of %s\n",
		 iommu_group_id(mp->group), pci_name(p->pdev));
	return 0;

err_leave:
	mp_leave_group(mp);
err_put:
	vfio_put_device(&mp->core.vdev);
	return ret;
}

static void mp_mdev_remove(struct mdev_device *mdev)
{
	struct mp_device *mp = dev_get_drvdata(&mdev->dev);

	mp_await_retired(mp_parent_of(mdev), mp);
	mp_leave_group(mp);
	vfio_put_device(&mp->core.vdev);
}

static struct mdev_driver mp_mdev_driver = {
	.device_api	= VFIO_DEVICE_API_PCI_STRING,
	.max_instances	= 1,
	.probe		= mp_mdev_probe,
	.remove		= mp_mdev_remove,
	.driver = {
		.name		= MP_NAME,
		.owner		= THIS_MODULE,
		.mod_name	= KBUILD_MODNAME,
		/* A driver comes with create and goes with remove. */
		.suppress_bind_attrs = true,
	},
};

/*
 * The driver of parents
 */

static bool mp_denied(struct pci_dev *pdev)
{
	if (!mp_in_denylist(pdev->vendor, pdev->device))
		return false;
	if (disable_denylist) {
		pci_warn(pdev, "%04x:%04x can harm the host, and disable_denylist allows it\n",
			 pdev->vendor, pdev->device);
		return false;
	}
	pci_warn(pdev, "%04x:%04x has faults by which its user can harm the host; the parameter disable_denylist allows it\n",
		 pdev->vendor, pdev->device);
	return true;
}

/*
 * Ends what the function does and keeps it from starting DMA, which would reach
 * the mappings of whoever uses its group: a member of it may be open already.
 * Nothing of this driver makes it bus master again, and VFIO gives it back as
 * silent as this. The caller holds the function's device lock.
 */
static void mp_hush(struct pci_dev *pdev)
{
	int ret;

	if (!pci_device_is_present(pdev))
		return;
	pci_clear_master(pdev);
	/* It restores the command register as it is now. */
	ret = pci_reset_function_locked(pdev);
	if (ret && ret != -ENOTTY)
		pci_warn(pdev, "could not be reset: %d\n", ret);
}

static int mp_pci_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct mp_parent *p;
	int ret;

	if (pdev->hdr_type != PCI_HEADER_TYPE_NORMAL)
		return -EINVAL;
	if (!device_iommu_mapped(&pdev->dev)) {
		pci_warn(pdev, "has no IOMMU group\n");
		return -ENODEV;
	}
	if (pci_num_vf(pdev)) {
		pci_warn(pdev, "has virtual functions; disable them first\n");
		return -EBUSY;
	}
	if (mp_denied(pdev))
		return -EPERM;
	mp_hush(pdev);
	p = kzalloc(sizeof(*p), GFP_KERNEL);
	if (!p)
		return -ENOMEM;
	kref_init(&p->ref);
	mutex_init(&p->lock);
	INIT_WORK(&p->retire, mp_retire_work);
	p->pdev = pci_dev_get(pdev);
	p->type.sysfs_name = "type1";
	p->type.pretty_name = "whole PCI function";
	p->types = &p->type;
	ret = mdev_register_parent(&p->mdev, &pdev->dev, &mp_mdev_driver,
				   &p->types, 1);
	if (ret) {
		kref_put(&p->ref, mp_parent_release);
		return ret;
	}
	mutex_lock(&mp_parents_lock);
	list_add(&p->node, &mp_parents);
	mutex_unlock(&mp_parents_lock);
	return 0;
}

static struct mp_parent *mp_take_parent(struct pci_dev *pdev)
{
	struct mp_parent *p, *found = NULL;

	mutex_lock(&mp_parents_lock);
	list_for_each_entry(p, &mp_parents, node) {
		if (p->pdev == pdev) {
			list_del(&p->node);
			found = p;
			break;
		}
	}
	mutex_unlock(&mp_parents_lock);
	return found;
}

static void mp_pci_remove(struct pci_dev *pdev)
{
	struct mp_parent *p = mp_take_parent(pdev);

	if (WARN_ON(!p))
		return;
	mutex_lock(&p->lock);
	p->going = true;
	mutex_unlock(&p->lock);
	mp_retire(p);
	mdev_unregister_parent(&p->mdev);
	mp_hush(pdev);
	kref_put(&p->ref, mp_parent_release);
}

static pci_ers_result_t mp_pci_error(struct pci_dev *pdev,
				     pci_channel_state_t state)
{
	pci_ers_result_t result = PCI_ERS_RESULT_CAN_RECOVER;

	mutex_lock(&mp_drvdata_lock);
	if (pci_get_drvdata(pdev))
		result = vfio_pci_core_aer_err_detected(pdev, state);
	mutex_unlock(&mp_drvdata_lock);
	return result;
}

static const struct pci_error_handlers mp_pci_errors = {
	.error_detected = mp_pci_error,
};

/* Matches a function whose driver_override names this driver, and no other. */
static const struct pci_device_id mp_pci_ids[] = {
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_ANY_ID, PCI_ANY_ID) },
	{}
};

static struct pci_driver mp_pci_driver = {
	.name			= MP_NAME,
	.id_table		= mp_pci_ids,
	.probe			= mp_pci_probe,
	.remove			= mp_pci_remove,
	.err_handler		= &mp_pci_errors,
	.driver_managed_dma	= true,
};

static int __init mp_init(void)
{
	int ret;

	/* Unbound: an item waits as long as a device is in use. */
	mp_workqueue = alloc_workqueue(MP_NAME, WQ_UNBOUND, 0);
	if (!mp_workqueue)
		return -ENOMEM;
	ret = mdev_register_driver(&mp_mdev_driver);
	if (ret)
		goto err_workqueue;
	ret = pci_register_driver(&mp_pci_driver);
	if (ret)
		goto err_mdev;
	return 0;

err_mdev:
	mdev_unregister_driver(&mp_mdev_driver);
err_workqueue:
	destroy_workqueue(mp_workqueue);
	return ret;
}

static void __exit mp_exit(void)
{
	pci_unregister_driver(&mp_pci_driver);
	mdev_unregister_driver(&mp_mdev_driver);
	destroy_workqueue(mp_workqueue);	/* waits for late work */
}

module_init(mp_init);
module_exit(mp_exit);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The stile authors");
MODULE_DESCRIPTION("A PCI function as one mediated device in its parent's IOMMU group");
MODULE_SOFTDEP("pre: vfio_iommu_type1");
