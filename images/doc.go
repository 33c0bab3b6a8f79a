// Package images makes what a guest boots: the default kernel, unpacked kernels,
// the agent, initramfs with kernel modules and a userland. Whatever takes time to make is kept in
// a Cache, which several processes may use at once.
package images
