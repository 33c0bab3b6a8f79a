package guest

import (
	"context"

	"github.com/stile-vmm/stile/images"
)

// Inputs returns the paths of what a guest of s is made of: kernel, modules, initramfs, root, folders and disks. Of a folder, what is
// below it is not among them. An ordinary Boot has fetched what is not there. ctx bounds a search for packages.
func (s Spec) Inputs(ctx context.Context) ([]string, error) {
	cache, err := images.Open("")
	if err != nil {
		return nil, err
	}
	k, err := s.findKernel(ctx, cache, nil)
	if err != nil {
		return nil, err
	}
	paths := append([]string{k.Image}, s.Initramfs...)
	if k.Modules != "" {
		files, err := images.ModuleFiles(k.Modules)
		if err != nil {
			return nil, err
		}
		paths = append(paths, files...)
	}
	if s.rootIsFolder() || s.rootIsImage() {
		paths = append(paths, s.Root)
	}
	for _, f := range s.Folders {
		paths = append(paths, f.Host)
	}
	for _, d := range s.Disks {
		paths = append(paths, d.Path)
	}
	return paths, nil
}
