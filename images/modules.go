package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stile-vmm/stile/images/kmod"
)

// Module is a kernel module's file.
type Module struct {
	// Name is the module's, with underscores.
	Name string
	// Path is the file on the host: .ko, .ko.xz, .ko.zst or .ko.gz.
	Path string
}

// GuestPath returns where the module goes in an initramfs.
func (m Module) GuestPath() string { return "/lib/modules/" + m.Name + kmod.Suffix }

// GuestModules returns what stile's guests must have, built in or as a module, the channel and the shares, and
// what they may have: drivers of other virtio devices.
func GuestModules() (must, may []string) {
	return []string{"virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"},
		[]string{"virtio_rng", "virtio_blk", "virtio_net", "virtio_balloon", "vmw_vsock_virtio_transport"}
}

// LabModules returns what a nested host must have built in or as a module, and what it may have: the
// channel and the shares, KVM for the processor that the lab emulates, and for passthrough VFIO and the drivers of the lab's devices.
func LabModules(passthrough bool) (must, may []string) {
	must = []string{"virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay", "kvm_amd"}
	if !passthrough {
		return must, nil
	}
	return append(must, "vfio_pci", "vfio_iommu_type1"),
		[]string{"iommufd", "mdev", "nvme", "e1000e", "virtio_net", "virtio_blk", "tun"}
}

// ModuleClosure returns the wanted modules and what they depend on, in the order in
// which they can be loaded. dir is a kernel's lib/modules/RELEASE. What is built into the
// kernel is left out; what is neither a module nor known to be built in is returned as missing, but for what is
// needed by optional modules only: those come after the others, as far as they are there.
func ModuleClosure(dir string, want []string, optional ...string) (modules []Module, missing []string, err error) {
	tree, err := readModuleTree(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("kernel modules in %s: %w", dir, err)
	}
	c := closure{tree: tree, seen: make(map[string]bool)}
	if err := c.addAll(want); err != nil {
		return nil, nil, fmt.Errorf("kernel modules in %s: %w", dir, err)
	}
	missing = c.missing
	if err := c.addAll(optional); err != nil {
		return nil, nil, fmt.Errorf("kernel modules in %s: %w", dir, err)
	}
	return c.modules, missing, nil
}

// KernelFile is a kernel's file in its own lib/modules/RELEASE folder, where Fedora, Arch and Debian since 2026 have it, and
// what the names of those in /boot start with.
const KernelFile = "vmlinuz"

// ModulesFor returns the lib/modules/RELEASE folder of an installed or unpacked kernel, "" if it has no modules: the folder that
// its file is in, or the one for a file that is named vmlinuz-RELEASE, or links to one.
func ModulesFor(kernel string) string {
	if path, err := filepath.EvalSymlinks(kernel); err == nil && filepath.Base(kernel) == KernelFile {
		kernel = path // /vmlinuz, for whatever was installed last
	}
	boot := filepath.Dir(kernel)
	if filepath.Base(kernel) == KernelFile && looksLikeModules(boot) {
		return boot
	}
	_, release, ok := strings.Cut(filepath.Base(kernel), "-")
	if !ok {
		return ""
	}
	for _, root := range []string{boot, filepath.Dir(boot), filepath.Join(filepath.Dir(boot), "usr"), "/", "/usr"} {
		dir := filepath.Join(root, "lib", "modules", release)
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
	}
	return ""
}

// HoldsModules tells whether a folder that somebody names is a kernel's lib/modules/RELEASE, wherever it lies.
func HoldsModules(dir string) bool { return holdsLists(dir) || exists(filepath.Join(dir, "kernel")) }

// looksLikeModules is HoldsModules for a folder that nobody named: many a folder has a vmlinuz and a folder "kernel" in it, so that
// modules without any of their lists count in lib/modules only.
func looksLikeModules(dir string) bool {
	return holdsLists(dir) || filepath.Base(filepath.Dir(dir)) == "modules" && HoldsModules(dir)
}

func holdsLists(dir string) bool {
	return slices.ContainsFunc([]string{builtinList, "modules.order", "modules.dep"}, func(name string) bool {
		return exists(filepath.Join(dir, name))
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// LacksBuiltin returns a remark for an error about modules that are missing in dir, a lib/modules/RELEASE, where nothing says
// what is built into the kernel: "" where something does.
func LacksBuiltin(dir string) string {
	if _, err := os.Stat(filepath.Join(dir, builtinList)); !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return fmt.Sprintf(" (it has no %s, which names what is built in: Debian has that file in the package linux-base-%s)",
		builtinList, filepath.Base(dir))
}

// builtinList names the modules that are built into the kernel.
const builtinList = "modules.builtin"

// closure collects modules, each after those it depends on.
type closure struct {
	tree    *moduleTree
	seen    map[string]bool
	modules []Module
	missing []string
}

func (c *closure) addAll(names []string) error {
	for _, name := range names {
		if err := c.add(kmod.Name(name)); err != nil {
			return err
		}
	}
	return nil
}

func (c *closure) add(name string) error {
	if c.seen[name] || c.tree.builtin[name] {
		return nil
	}
	c.seen[name] = true // before its dependencies, which may be a circle in a damaged tree
	path, ok := c.tree.paths[name]
	if !ok {
		c.missing = append(c.missing, name)
		return nil
	}
	depends, err := c.tree.dependsOf(name)
	if err != nil {
		return err
	}
	for _, other := range depends {
		if err := c.add(other); err != nil {
			return err
		}
	}
	c.modules = append(c.modules, Module{Name: name, Path: path})
	return nil
}

// moduleTree is what a lib/modules/RELEASE folder says.
type moduleTree struct {
	paths   map[string]string   // by module name
	depends map[string][]string // from modules.dep; nil without that file
	builtin map[string]bool
}

// readModuleTree reads modules.dep. If there is no such file, it looks for the modules, and reads in each what that depends on.
func readModuleTree(dir string) (*moduleTree, error) {
	t := &moduleTree{paths: make(map[string]string), builtin: make(map[string]bool)}
	builtin, err := os.ReadFile(filepath.Join(dir, builtinList))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for path := range strings.Lines(string(builtin)) {
		t.builtin[kmod.Name(strings.TrimSpace(path))] = true
	}
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = t.findFiles(dir)
	case err == nil:
		t.parseDep(dir, string(dep))
	}
	return t, err
}

// parseDep reads lines like "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko".
func (t *moduleTree) parseDep(dir, dep string) {
	t.depends = make(map[string][]string)
	for line := range strings.Lines(dep) {
		path, others, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		name := kmod.Name(path)
		t.paths[name] = filepath.Join(dir, path)
		for _, other := range strings.Fields(others) {
			t.depends[name] = append(t.depends[name], kmod.Name(other))
		}
	}
}

func (t *moduleTree) findFiles(dir string) error {
	files, err := kmod.Files(dir)
	if err != nil {
		return err
	}
	if len(files) == 0 && len(t.builtin) == 0 {
		return &fs.PathError{Op: "find modules", Path: dir, Err: fs.ErrNotExist}
	}
	for name, path := range kmod.Choose(files) {
		t.paths[name] = filepath.Join(dir, path)
	}
	return nil
}

func (t *moduleTree) dependsOf(name string) ([]string, error) {
	if t.depends != nil {
		return t.depends[name], nil
	}
	info, err := kmod.ReadInfo(t.paths[name])
	if err != nil {
		return nil, err
	}
	return info.Depends, nil
}
