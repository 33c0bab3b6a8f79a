package guest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/agent"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/bytejson"
	"github.com/stile-vmm/stile/vmm"
)

// envImages carries Images, as JSON, to a process in the nested host.
const envImages = "STILE_IMAGES"

// Images are the files that a guest boots from.
type Images struct {
	Kernel    string `json:"kernel"`
	Initramfs string `json:"initramfs"`
	// Modules is a lib/modules/RELEASE folder of this host that the guest is to see, "" for none.
	Modules string `json:"modules,omitempty"`
	// Symbols is the file with the kernel's symbols, see symbolsOf.
	Symbols string `json:"symbols,omitempty"`
}

// findImages makes the images of s, or takes those that were made outside the nested host.
func findImages(ctx context.Context, s Spec) (Images, error) {
	if text := os.Getenv(envImages); text != "" && Nested() {
		var made Images
		if err := bytejson.Unmarshal([]byte(text), &made); err != nil {
			return made, fmt.Errorf("%s: %w", envImages, err)
		}
		return made, nil
	}
	cache, err := images.Open("")
	if err != nil {
		return Images{}, err
	}
	return makeImages(ctx, cache, s, os.Stderr)
}

// makeImages makes the images of s. progress, if not nil, gets a line when a step takes long.
func makeImages(ctx context.Context, cache *images.Cache, s Spec, progress io.Writer) (Images, error) {
	var kernel *distro.Kernel
	made := Images{}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"getting the kernel", func() (err error) {
			kernel, err = s.findKernel(ctx, cache, progress)
			if err == nil {
				made.Symbols = symbolsOf(kernel)
			}
			return s.noKernel(err)
		}},
		{"preparing the kernel's modules", func() (err error) {
			made.Modules, err = indexedModules(ctx, cache, kernel, nil)
			return err
		}},
		{"unpacking the kernel", func() (err error) {
			made.Kernel, err = cache.Unpacked(ctx, kernel.Image, images.Unpack{Child: true})
			return s.noKernel(err)
		}},
		{s.initramfsStep(), func() (err error) {
			made.Initramfs, err = makeInitramfs(ctx, cache, s, made.Modules)
			return err
		}},
	} {
		if err := slowly(progress, step.what, step.do); err != nil {
			return Images{}, err
		}
	}
	return made, nil
}

func (s Spec) initramfsStep() string {
	if s.Root == RootURoot {
		return "building the u-root userland and the initramfs; the first time that takes a minute or two"
	}
	return "building the initramfs"
}

// release is the name that modprobe looks for modules by.
func release(k *distro.Kernel) string {
	if k.Release != "" {
		return k.Release
	}
	return filepath.Base(k.Modules)
}

func makeInitramfs(ctx context.Context, cache *images.Cache, s Spec, modules string) (string, error) {
	a, err := cache.Agent(ctx, images.AgentOptions{Self: true, Alone: true})
	if err != nil {
		return "", err
	}
	contents := &images.Initramfs{Agent: a}
	if s.Root == RootURoot {
		if contents.Userland, err = cache.URoot(ctx); err != nil {
			return "", err
		}
	}
	if modules != "" {
		var lacking []string
		must, may := images.GuestModules()
		if contents.Modules, lacking, err = images.ModuleClosure(modules, must, may...); err != nil {
			return "", err
		}
		if len(lacking) > 0 {
			return "", s.noKernel(fmt.Errorf("the kernel has no %s, neither built in nor as a module in %s%s: guests need that to see files; "+
				"take another kernel, such as debian:6.12 (kernels made for clouds lack 9P)", strings.Join(lacking, ", "), modules, images.LacksBuiltin(modules)))
		}
	}
	return cache.Initramfs(ctx, contents)
}

// Offers reports whether a guest of s has a program that its root may lack: those for modules, where the kernel may take some.
func (s Spec) Offers(program string) bool {
	return s.Kernel != "" && s.Kernel != KernelDefault && agent.Offers(program)
}

// modulesTag is the 9P tag of a kernel's modules, in guests that do not see the host's root.
const modulesTag = "stile.modules"

// mountModules has the guest see the modules at /lib/modules/RELEASE.
func (m Images) mountModules(s Spec, setup *agentproto.Setup) {
	switch {
	case m.Modules == "":
	case s.Root == RootHost:
		setup.Modules = m.Modules
	default:
		target := path.Join("/lib/modules", filepath.Base(m.Modules))
		setup.Mounts = append(setup.Mounts, agentproto.Mount{
			Kind: agentproto.Mount9P, Source: modulesTag, Target: target, ReadOnly: true,
		})
	}
}

// shareModules is mountModules' other end.
func (m Images) shareModules(s Spec, cfg *vmm.Config) {
	if m.Modules != "" && s.Root != RootHost {
		cfg.Shares = append(cfg.Shares, vmm.Share{Tag: modulesTag, Path: m.Modules, ReadOnly: true})
	}
}
