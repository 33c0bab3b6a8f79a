package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/stile-vmm/stile/images"
)

// envImages carries Images, as JSON, to a process in the nested host.
const envImages = "STILE_IMAGES"

// Images are the files that a guest boots from.
type Images struct {
	Kernel    string `json:"kernel"`
	Initramfs string `json:"initramfs"`
}

// findImages makes the images of s, or takes those that were made outside the nested host.
func findImages(ctx context.Context, s Spec) (Images, error) {
	if text := os.Getenv(envImages); text != "" && Nested() {
		var made Images
		if err := json.Unmarshal([]byte(text), &made); err != nil {
			return made, fmt.Errorf("%s: %w", envImages, err)
		}
		return made, nil
	}
	cache, err := images.Open("")
	if err != nil {
		return Images{}, err
	}
	return makeImages(ctx, cache, s)
}

func makeImages(ctx context.Context, cache *images.Cache, s Spec) (Images, error) {
	path := s.Kernel
	if path == "" {
		var err error
		if path, err = cache.DefaultKernel(ctx); err != nil {
			return Images{}, err
		}
	}
	kernel, err := cache.Unpacked(ctx, path, images.Unpack{Child: true})
	if err != nil {
		return Images{}, err
	}
	initramfs, err := makeInitramfs(ctx, cache, s)
	return Images{kernel, initramfs}, err
}

func makeInitramfs(ctx context.Context, cache *images.Cache, s Spec) (string, error) {
	a, err := cache.Agent(ctx, images.AgentOptions{Self: true})
	if err != nil {
		return "", err
	}
	contents := &images.Initramfs{Agent: a}
	if s.Root == RootURoot {
		if contents.Userland, err = cache.URoot(ctx); err != nil {
			return "", err
		}
	}
	if dir := s.modules(); dir != "" {
		var lacking []string
		if contents.Modules, lacking, err = images.ModuleClosure(dir, images.GuestModules()); err != nil {
			return "", err
		}
		if len(lacking) > 0 {
			return "", fmt.Errorf("modules in %s: the kernel has no %s, neither built in nor as a module", dir, strings.Join(lacking, ", "))
		}
	}
	return cache.Initramfs(ctx, contents)
}

// modules returns the folder of the kernel's modules, "" if there is none or none is needed.
func (s Spec) modules() string {
	if s.Modules != "" || s.Kernel == "" {
		return s.Modules
	}
	return images.ModulesFor(s.Kernel)
}
