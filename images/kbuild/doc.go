// Package kbuild builds kernels for the lab's nested host with what distributions leave out: iommufd and VFIO's character
// devices, and VFIO's sample devices. The source is the distribution's package, the configuration
// a fragment in this package on top of allnoconfig; l1-debug.config adds the kernel's own checks.
//
// A built kernel is a folder in the cache, laid out as an installed one, with what modules for it are built against
// in lib/modules/RELEASE/build. It is found by the source package's version, the fragment and the compiler.
package kbuild
