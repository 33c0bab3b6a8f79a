package images

import "github.com/stile-vmm/stile/boot"

// ClassicInitrd reports whether a file is neither a cpio archive nor a compressed one, but the image of a file system as initial RAM
// disk. It is false for a file that can't be read.
func ClassicInitrd(path string) bool {
	i, err := boot.OpenInitrd(path)
	if err != nil {
		return false
	}
	defer i.Close()
	return i.Classic()
}
