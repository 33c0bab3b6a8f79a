package guest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/agent"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/lab"
)

// LabSpec says which nested host is wanted. The zero value is one for plain VMs.
type LabSpec struct {
	// Topology is the name of a shipped one or the path of a file; "" is one without devices.
	Topology string
	// Kernel is what the nested host boots; see labKernel.
	Kernel string
	// Modules is the lib/modules/RELEASE folder of a Kernel that is a path; "" looks beside it.
	Modules string
	// CPUs is the number of its processors; 0: one, which is fastest.
	CPUs int
	// Mem is its memory in bytes; 0: what its guest needs.
	Mem uint64
	// Current builds the state anew if another stile has made it.
	Current bool
	// Writable are files and folders of this host that the nested one may change; see lab.Config.
	Writable []string
	// Dir is a folder of this host that is needed in there, besides this process's working directory; "" is none.
	Dir string
	// Console gets a copy of its kernel's console.
	Console io.Writer
}

// OpenLab resumes the nested host that l asks for, and builds it first where that was not done yet. The
// caller closes it. progress gets a line when something takes long.
func OpenLab(ctx context.Context, l LabSpec, progress io.Writer) (*LabHost, error) {
	cache, err := images.Open("")
	if err != nil {
		return nil, err
	}
	return openLab(ctx, cache, l, 0, progress)
}

// openLab has room for a guest of guestMem bytes.
func openLab(ctx context.Context, cache *images.Cache, l LabSpec, guestMem uint64, progress io.Writer) (*LabHost, error) {
	if err := checkLabCache(cache.Dir()); err != nil {
		return nil, err
	}
	topology, err := lab.FindTopology(l.Topology)
	if err != nil {
		return nil, err
	}
	image, self, err := labImage(ctx, cache, l, topology, progress)
	if err != nil {
		return nil, err
	}
	kept := keptPaths(l.Dir)
	host, err := lab.Resume(ctx, &lab.Config{
		Dir: cache.Dir(), Image: image, Topology: topology, GuestMem: int64(guestMem), Mem: int64(l.Mem), CPUs: l.CPUs, Current: l.Current,
		Writable: l.Writable, Keep: kept, Progress: progress, Console: l.Console,
	})
	if err != nil {
		return nil, err
	}
	return &LabHost{Host: host, self: self, cache: cache.Dir(), typed: l.typed(), kept: kept}, nil
}

// checkLabCache refuses a cache that the nested host can't see: it has file systems of its own in these places.
func checkLabCache(dir string) error {
	for _, own := range []string{"/dev", "/proc", "/run", "/sys"} {
		if dir == own || strings.HasPrefix(dir, own+"/") {
			return fmt.Errorf("the cache %s can't be used for the lab, which has a %s of its own: set %s to another folder", dir, own, images.EnvCache)
		}
	}
	return nil
}

// preloadedKernel is the default kernel's name, unpacked, in the nested host's memory:
// reading its 56 MB from outside takes half a second each time.
const preloadedKernel = "kernel"

// labImage returns what the nested host boots, and this program's path in it.
func labImage(ctx context.Context, cache *images.Cache, l LabSpec, t *lab.Topology, progress io.Writer) (*lab.Image, string, error) {
	kernel, err := labKernel(ctx, cache, l, t, progress)
	if err != nil {
		return nil, "", err
	}
	modules, err := labModules(kernel, t)
	if err != nil {
		return nil, "", err
	}
	indexed, err := indexedModules(ctx, cache, kernel, progress)
	if err != nil {
		return nil, "", err
	}
	var bzImage string
	if err := slowly(progress, "getting the default kernel", func() (err error) {
		bzImage, err = cache.DefaultKernel(ctx)
		return err
	}); err != nil {
		return nil, "", err
	}
	unpacked, err := cache.Unpacked(ctx, bzImage, images.Unpack{Child: true})
	if err != nil {
		return nil, "", err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	a, err := cache.Agent(ctx, images.AgentOptions{Self: true})
	if err != nil {
		return nil, "", err
	}
	self := program
	if strings.HasPrefix(a.Path, "/proc/self/") {
		a.Path, self = program, lab.Self // in memory there already
	}
	contents := &images.Initramfs{
		Agent:   a,
		Modules: modules,
		Files:   []images.File{{Name: path.Join(agent.Preload, preloadedKernel), Mode: 0o644, Source: unpacked}},
	}
	id, err := labIdentity(ctx, cache, contents)
	if err != nil {
		return nil, "", err
	}
	return &lab.Image{
		Kernel: kernel.Image, Modules: indexed, Agent: a.Path, ID: kernel.Modules + " " + id,
		Initramfs: func(w io.Writer) error { return contents.Write(w) },
	}, self, nil
}

// labIdentity names what a saved nested host was booted from, but for the agent's program, which each resume replaces.
func labIdentity(ctx context.Context, cache *images.Cache, contents *images.Initramfs) (string, error) {
	kept := *contents
	kept.Agent = nil
	for _, library := range contents.Agent.Libraries {
		kept.Files = append(slices.Clone(kept.Files), images.File{Name: library, Mode: 0o755, Source: library})
	}
	return cache.InitramfsKey(ctx, &kept)
}

// indexedModules returns the folder of a kernel's modules in which modprobe finds them, "" for a kernel without.
func indexedModules(ctx context.Context, cache *images.Cache, k *distro.Kernel, progress io.Writer) (dir string, err error) {
	if k.Modules == "" {
		return "", nil
	}
	err = slowly(progress, "preparing the kernel's modules", func() error {
		dir, err = cache.IndexedModules(ctx, k.Modules, release(k), Nested())
		return err
	})
	return dir, err
}

// labModules returns what the nested host loads when it boots.
func labModules(k *distro.Kernel, t *lab.Topology) ([]images.Module, error) {
	if k.Modules == "" {
		return nil, nil // all is built in
	}
	must, may := images.LabModules(!t.Plain())
	modules, lacking, err := images.ModuleClosure(k.Modules, must, may...)
	if err != nil {
		return nil, err
	}
	if len(lacking) > 0 {
		return nil, fmt.Errorf("the lab can't use %s: it has no %s, neither built in nor as a module in %s%s",
			k.Image, strings.Join(lacking, ", "), k.Modules, images.LacksBuiltin(k.Modules))
	}
	return modules, nil
}
