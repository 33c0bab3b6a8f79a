package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images/kmod"
)

// moduleLists are files beside the modules that their index is made from.
func moduleLists() []string {
	return []string{kmod.OrderList, kmod.BuiltinList, kmod.BuiltinInfo}
}

// IndexedModules returns a lib/modules/RELEASE folder with dir's modules in which modprobe finds them: dir itself
// where depmod has run, else a copy in the cache, of hard links where the file system allows, with an index of our own. dir is such a
// folder, or that of a kernel build, whose modules lie among its sources.
//
// nested tells that this process sees the host's files through the lab, where inodes have other numbers. A copy that was made
// outside does there without them: another one would be made in the nested host's memory.
func (c *Cache) IndexedModules(ctx context.Context, dir, release string, nested bool) (string, error) {
	if _, err := os.Stat(filepath.Join(dir, kmod.DepIndex)); err == nil {
		return dir, nil
	}
	files, err := moduleFiles(dir)
	if err != nil {
		return "", fmt.Errorf("kernel modules in %s: %w", dir, err)
	}
	key, inodes, err := modulesKey(dir, release, files)
	if err != nil {
		return "", fmt.Errorf("kernel modules in %s: %w", dir, err)
	}
	top, made := "", false
	if nested {
		top, made = c.Latest(KindModules, key+"-")
		if outer := OpenOuter(); outer != nil && !made {
			top, made = outer.Latest(KindModules, key+"-")
		}
	}
	if !made {
		top, err = c.Folder(ctx, KindModules, key+"-"+inodes, func(top string) error {
			return indexModules(ctx, top, dir, release, files)
		})
	}
	if err != nil {
		return "", fmt.Errorf("kernel modules in %s: %w", dir, err)
	}
	return filepath.Join(top, "lib", "modules", release), nil
}

// ModuleFiles returns the paths of the modules below dir, a folder lib/modules/RELEASE or that of a kernel build, and of the lists beside
// them.
func ModuleFiles(dir string) ([]string, error) {
	files, err := moduleFiles(dir)
	if err != nil {
		return nil, fmt.Errorf("kernel modules in %s: %w", dir, err)
	}
	var paths []string
	for _, name := range append(files, moduleLists()...) {
		paths = append(paths, filepath.Join(dir, name))
	}
	return paths, nil
}

// moduleFiles returns the modules below dir, by their paths in it.
func moduleFiles(dir string) ([]string, error) {
	if order, err := os.ReadFile(filepath.Join(dir, "modules.order")); err == nil && isBuildTree(dir) {
		var files []string
		for line := range strings.Lines(string(order)) {
			// Until 6.2 lines named modules, and since then their objects.
			name := strings.TrimSpace(line)
			files = append(files, strings.TrimSuffix(strings.TrimSuffix(name, ".o"), kmod.Suffix)+kmod.Suffix)
		}
		return files, nil
	}
	return kmod.Files(dir)
}

// isBuildTree tells a kernel's build folder from one of installed modules.
func isBuildTree(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "include", "config", "kernel.release"))
	return err == nil
}

// modulesFormat is part of every key: it changes when the same modules make another folder.
const modulesFormat = "4"

// modulesKey returns two parts of a key, of which one changes whenever anything does that the folder is made from: a
// module or a list beside them. inodes is for files that were replaced by others of the same size and time.
func modulesKey(dir, release string, files []string) (key, inodes string, err error) {
	sum := &fileSums{state: sha256.New(), inodes: sha256.New()}
	fmt.Fprintf(sum.state, "%s\n%s\n%s\n%t\n", modulesFormat, dir, release, isBuildTree(dir))
	for _, name := range files {
		if err := sum.add(filepath.Join(dir, name)); err != nil {
			return "", "", fmt.Errorf("%w; was the build finished?", err)
		}
	}
	for _, name := range moduleLists() {
		if err := sum.add(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", "", err
		}
	}
	const inodeBytes = 8 // of the hash
	return hex.EncodeToString(sum.state.Sum(nil)), hex.EncodeToString(sum.inodes.Sum(nil)[:inodeBytes]), nil
}

// fileSums are hashes of what can be known of files without reading them. Their times of change do not count: a link to
// a file changes that.
type fileSums struct{ state, inodes hash.Hash }

func (s *fileSums) add(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	fmt.Fprintf(s.state, "%q %d %s\n", path, st.Size, formatTime(st.Mtim))
	fmt.Fprintf(s.inodes, "%d\n", st.Ino)
	return nil
}

func indexModules(ctx context.Context, top, dir, release string, files []string) error {
	out := filepath.Join(top, "lib", "modules", release)
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, name := range slices.Concat(files, moduleLists()) {
		target := filepath.Join(out, name)
		if isBuildTree(dir) && strings.HasSuffix(name, kmod.Suffix) {
			target = filepath.Join(out, "kernel", name)
		}
		err := linkOrCopy(filepath.Join(dir, name), target)
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && slices.Contains(moduleLists(), name)) {
			return err
		}
	}
	return kmod.WriteIndexes(ctx, out)
}

func linkOrCopy(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if os.Link(from, to) == nil {
		return nil
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
