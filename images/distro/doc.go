// Package distro gets kernels, with their modules, that a distribution has built: from its packages, which are fetched
// with the system's package manager and unpacked into the cache but never installed, from the running host,
// or from files that somebody names. It gets the packaged sources of a kernel in the same way.
//
// Packages come through apt-get, so that the system's own sources, proxies and keys count. apt-get checks what it
// fetches: the archive's signature covers the lists, and the lists have the hash of each package. What is in
// a package is unpacked by this package's code, which holds every path inside the folder it unpacks to.
//
// A package that is in the cache is used without asking the network, until Update asks for a newer one. Debian's
// packages hold no modules.dep, which depmod makes at installation; images.IndexedModules makes it.
package distro
