package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	// The module holds the default kernel; the import keeps it in the build list, so that the
	// binary knows its version and hash.
	_ "github.com/gokrazy/kernel.amd64"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
)

// The default kernel's module, for binaries that don't know their build list. A test
// holds them to go.mod and go.sum.
const (
	kernelModule  = "github.com/gokrazy/kernel.amd64"
	kernelVersion = "v0.0.0-20260705070735-de680abf072b"
	kernelSum     = "h1:H9m4mwDqTyQG0AKVviBQp09T3OrY1X3tHNyrJCbqJfY="
	kernelFile    = "vmlinuz"
)

// pin is a module with its hash as in go.sum.
type pin struct {
	module.Version
	sum string
}

// defaultKernelPin returns the version that the program was built with.
func defaultKernelPin() pin {
	p := pin{module.Version{Path: kernelModule, Version: kernelVersion}, kernelSum}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return p
	}
	for _, dep := range info.Deps {
		if dep.Path == kernelModule && dep.Sum != "" && dep.Replace == nil {
			return pin{module.Version{Path: dep.Path, Version: dep.Version}, dep.Sum}
		}
	}
	return p
}

// DefaultKernelVersion names the default kernel's module and version.
func DefaultKernelVersion() string { return defaultKernelPin().String() }

// DefaultKernel returns the path of the default kernel, a bzImage: in the Go module cache, in this
// cache, or else downloaded into it through the module proxy and checked against the hash in go.sum.
func (c *Cache) DefaultKernel(ctx context.Context) (string, error) {
	p := defaultKernelPin()
	var changed error
	if path, ok := findInModuleCache(p.Version, kernelFile); ok {
		if changed = c.checkModule(ctx, p, path); changed == nil {
			return path, nil
		}
	}
	path, err := c.File(ctx, KindKernel, p.Version.Version, func(w *os.File) error {
		return download(ctx, p, kernelFile, w)
	})
	if err != nil && changed != nil {
		return "", fmt.Errorf("the default kernel: %w; to download it failed: %w", changed, err)
	}
	if err != nil {
		return "", fmt.Errorf("the default kernel is not here: %w; on a machine with a network run "+
			"`go mod download %s`, or name a kernel with -k", err, p.Version)
	}
	return path, nil
}

// checkModule returns an error unless the module in whose folder path lies is the one that is pinned: whoever can write to a module
// cache could have changed it. That is hashed once for each state of the file.
func (c *Cache) checkModule(ctx context.Context, p pin, path string) error {
	hash, err := c.HashFile(ctx, path)
	if err != nil {
		return err
	}
	record := c.path(KindHash, "pin-"+hashText(p.String() + " " + p.sum + " " + hash)[:32])
	if _, err := readRecord(record); err == nil {
		touch(record)
		return nil
	}
	dir := filepath.Dir(path)
	sum, err := dirhash.HashDir(dir, p.String(), dirhash.Hash1)
	if err != nil {
		return err
	}
	if sum != p.sum {
		return fmt.Errorf("the module in %s was changed: its hash is %s, expected was %s; remove it with `go clean -modcache`", dir, sum, p.sum)
	}
	_ = writeRecord(record, "same") // it only saves time
	return nil
}

// findInModuleCache looks for a file of a module where the Go tool keeps modules.
func findInModuleCache(m module.Version, file string) (string, bool) {
	path, err := module.EscapePath(m.Path)
	if err != nil {
		return "", false
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		return "", false
	}
	for _, dir := range moduleCaches() {
		name := filepath.Join(dir, path+"@"+version, file)
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
			return name, true
		}
	}
	return "", false
}

// moduleCaches returns the folders where a Go tool may keep modules, in its own order.
func moduleCaches() []string {
	if dir := os.Getenv("GOMODCACHE"); dir != "" {
		return []string{dir}
	}
	var dirs []string
	for _, dir := range filepath.SplitList(os.Getenv("GOPATH")) {
		dirs = append(dirs, filepath.Join(dir, "pkg", "mod"))
	}
	if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, filepath.Join(home, "go", "pkg", "mod"))
	}
	return dirs
}
