package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/stile-vmm/stile/images/agent"
	"github.com/stile-vmm/stile/images/kmod"
)

// Initramfs says what a guest's first file system holds.
type Initramfs struct {
	// Agent becomes /init.
	Agent *Agent
	// Modules are loaded by the agent, in order.
	Modules []Module
	// Userland is the path of a newc archive whose files go in too, except /init. Empty for none.
	Userland string
	// Files go in last.
	Files []File
}

// File is a regular file in an initramfs.
type File struct {
	// Name is the path in the guest.
	Name string
	// Mode holds the permission bits.
	Mode fs.FileMode
	// Source is the path on the host. When it is empty, Content is the file.
	Source  string
	Content []byte
}

// initramfsFormat is part of every key: it changes when the same input makes another archive.
const initramfsFormat = "1"

// Initramfs returns the path of the archive, uncompressed, made now or before. Files
// are compared by their contents.
func (c *Cache) Initramfs(ctx context.Context, i *Initramfs) (string, error) {
	key, err := c.InitramfsKey(ctx, i)
	if err != nil {
		return "", err
	}
	return c.File(ctx, KindInitramfs, key, func(w *os.File) error { return i.Write(w) })
}

// InitramfsKey returns a hash of all that the archive is made from: another archive has another key. Files are hashed once.
func (c *Cache) InitramfsKey(ctx context.Context, i *Initramfs) (string, error) {
	key, err := c.initramfsKey(ctx, i)
	if err != nil {
		return "", fmt.Errorf("initramfs: %w", err)
	}
	return key, nil
}

func (c *Cache) initramfsKey(ctx context.Context, i *Initramfs) (string, error) {
	key := sha256.New()
	fmt.Fprintf(key, "%s\n", initramfsFormat)
	if i.Userland != "" {
		if err := c.addToKey(ctx, key, File{Name: "userland", Source: i.Userland}); err != nil {
			return "", err
		}
	}
	for _, f := range i.files() {
		if err := c.addToKey(ctx, key, f); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(key.Sum(nil)), nil
}

func (c *Cache) addToKey(ctx context.Context, key hash.Hash, f File) error {
	content := sha256.Sum256(f.Content)
	id := hex.EncodeToString(content[:])
	if f.Source != "" {
		var err error
		if id, err = c.HashFile(ctx, f.Source); err != nil {
			return err
		}
	}
	fmt.Fprintf(key, "%q %o %s\n", f.Name, f.Mode, id)
	return nil
}

// files returns every file but the userland's, in the order of the archive. A module's Source may be compressed.
func (i *Initramfs) files() []File {
	const program = 0o755
	var files []File
	if i.Agent != nil {
		files = append(files, File{Name: "/init", Mode: program, Source: i.Agent.Path})
		for _, library := range i.Agent.Libraries {
			files = append(files, File{Name: library, Mode: program, Source: library})
		}
	}
	if len(i.Modules) > 0 {
		var list strings.Builder
		for _, m := range i.Modules {
			files = append(files, File{Name: m.GuestPath(), Mode: 0o644, Source: m.Path})
			fmt.Fprintln(&list, m.GuestPath())
		}
		files = append(files, File{Name: agent.ModulesList, Mode: 0o644, Content: []byte(list.String())})
	}
	return append(files, i.Files...)
}

// Write writes the archive, in the newc format; see the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst.
func (i *Initramfs) Write(w io.Writer) error {
	a := &archive{w: cpio.Newc.Writer(w), folders: make(map[string]bool)}
	if err := i.write(a); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	if err := cpio.WriteTrailer(a.w); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return nil
}

func (i *Initramfs) write(a *archive) error {
	if err := a.addDevices(); err != nil {
		return err
	}
	if i.Userland != "" {
		if err := a.addArchive(i.Userland); err != nil {
			return fmt.Errorf("userland %s: %w", i.Userland, err)
		}
	}
	for _, f := range i.files() {
		if err := a.add(f); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return nil
}

// archive is a newc archive that is being written.
type archive struct {
	w       cpio.RecordWriter
	folders map[string]bool
}

const folderMode = 0o755

// addDevices adds what a program needs to start: the kernel opens /dev/console for
// PID 1, and the Go runtime /dev/null in case there was none.
func (a *archive) addDevices() error {
	for _, r := range []cpio.Record{
		cpio.Directory("dev", folderMode),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.CharDev("dev/null", 0o666, 1, 3),
	} {
		if err := a.write(r); err != nil {
			return err
		}
	}
	return nil
}

// write writes a record after the folders above it.
func (a *archive) write(r cpio.Record) error {
	if a.folders[r.Name] {
		return nil
	}
	if err := a.addFolder(path.Dir(r.Name)); err != nil {
		return err
	}
	if r.Mode&cpio.S_IFMT == cpio.S_IFDIR {
		a.folders[r.Name] = true
	}
	return a.w.WriteRecord(r)
}

func (a *archive) addFolder(name string) error {
	if name == "." || name == "/" || a.folders[name] {
		return nil
	}
	return a.write(cpio.Directory(name, folderMode))
}

// add adds a file. A compressed kernel module goes in uncompressed.
func (a *archive) add(f File) error {
	content := f.Content
	if f.Source != "" {
		var err error
		if content, err = readUncompressed(f.Source, strings.HasSuffix(f.Name, kmod.Suffix)); err != nil {
			return err
		}
	}
	const maxSize = 1<<32 - 1 // of newc
	if len(content) > maxSize {
		return fmt.Errorf("%d bytes are too many for an initramfs", len(content))
	}
	return a.write(cpio.StaticRecord(content, cpio.Info{
		Name: cpio.Normalize(f.Name), Mode: cpio.S_IFREG | uint64(f.Mode.Perm()),
	}))
}

// readUncompressed reads a file, and uncompresses it when it is a compressed module.
func readUncompressed(path string, isModule bool) ([]byte, error) {
	if isModule {
		return kmod.Read(path)
	}
	return os.ReadFile(path)
}

// ours are the names that a userland does not give.
func ours(name string) bool {
	return name == "." || name == "init" || name == "dev/console" || name == "dev/null"
}

// addArchive adds another archive's files.
func (a *archive) addArchive(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return cpio.ForEachRecord(cpio.Newc.Reader(bytes.NewReader(content)), func(r cpio.Record) error {
		if ours(r.Name) {
			return nil
		}
		return a.write(cpio.MakeReproducible(r))
	})
}
