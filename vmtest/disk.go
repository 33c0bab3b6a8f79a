package vmtest

import "github.com/stile-vmm/stile/vmm"

// Disk is a disk of a VM: an image file, raw or qcow2, or a block device. See docs/disks.md.
type Disk = vmm.Disk
