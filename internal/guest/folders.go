package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/devices/backend/share"
	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/vmm"
)

// FolderMode says what becomes of a guest's writes to a folder.
type FolderMode string

const (
	FolderRO  FolderMode = "ro"  // they are refused
	FolderRW  FolderMode = "rw"  // they reach the host
	FolderCOW FolderMode = "cow" // they stay in the guest's memory and end with it
)

// Folder is a folder of the host that the guest sees at a path of its own.
type Folder struct {
	Mode  FolderMode `json:"mode"`
	Host  string     `json:"host"`
	Guest string     `json:"guest"` // absolute; "" is Host
}

// maxFolders bounds the folders of a guest: each is a device on its bus.
const maxFolders = 16

// ParseFolder reads [GUEST=]HOST. A relative HOST is one of this process's working directory. A text that does not begin
// with a slash is a HOST, whatever signs are in it; where two paths have such signs, "=/" parts them.
func ParseFolder(mode FolderMode, text string) (Folder, error) {
	f := Folder{Mode: mode, Host: text}
	if strings.HasPrefix(text, "/") {
		if guest, host, ok := strings.Cut(text, "=/"); ok {
			f.Guest, f.Host = guest, "/"+host
		} else if guest, host, ok := strings.Cut(text, "="); ok {
			f.Guest, f.Host = guest, host
		}
	}
	if f.Host == "" {
		return f, fmt.Errorf("--%s %q: want [GUEST=]HOST, two paths of folders", mode, text)
	}
	var err error
	f.Host, err = filepath.Abs(f.Host)
	return f, err
}

// String returns what ParseFolder reads.
func (f Folder) String() string {
	if f.target() == f.Host && !strings.Contains(f.Host, "=") {
		return f.Host
	}
	return f.target() + "=" + f.Host
}

func (f Folder) target() string {
	if f.Guest == "" {
		return filepath.Clean(f.Host)
	}
	return filepath.Clean(f.Guest)
}

func (f Folder) validate() error {
	what := fmt.Sprintf("--%s %s", f.Mode, f.Host)
	if f.Guest != "" {
		what = fmt.Sprintf("--%s %s", f.Mode, f)
	}
	switch f.Mode {
	case FolderRO, FolderRW, FolderCOW:
	default:
		return fmt.Errorf("folder %s: mode %q must be %s, %s or %s", f.Host, f.Mode, FolderRO, FolderRW, FolderCOW)
	}
	switch target := f.target(); {
	case !filepath.IsAbs(target):
		return fmt.Errorf("%s: the guest's path must be absolute", what)
	case target == "/":
		return fmt.Errorf("%s: the guest's / is what --root makes it; name a folder below it, as in --%s /mnt=%s", what, f.Mode, f.Host)
	}
	err := share.Check(f.Host)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist) && f.Guest == "" && strings.Contains(f.Host, "="):
		return fmt.Errorf("%s: %w; for GUEST=HOST, GUEST must be absolute", what, err)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%s: %w: single files can't be shared, name the folder", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func validateFolders(folders []Folder) []error {
	var faults []error
	if len(folders) > maxFolders {
		faults = append(faults, fmt.Errorf("%d folders: at most %d; share one above them", len(folders), maxFolders))
	}
	taken := make(map[string]Folder)
	for _, f := range folders {
		faults = append(faults, f.validate())
		target := f.target()
		if other, ok := taken[target]; ok {
			faults = append(faults, fmt.Errorf("--%s %s and --%s %s: both are %s in the guest", other.Mode, other, f.Mode, f, target))
		}
		taken[target] = f
	}
	return faults
}

// folderTag is the 9P tag of the folder with index i.
func folderTag(i int) string { return fmt.Sprintf("stile.%d", i) }

// folderShares returns the devices behind the folders.
func (s Spec) folderShares() ([]vmm.Share, error) {
	owner, err := shareOwner()
	if err != nil {
		return nil, err
	}
	var shares []vmm.Share
	for i, f := range s.Folders {
		shares = append(shares, vmm.Share{Tag: folderTag(i), Path: f.Host, ReadOnly: f.Mode != FolderRW, Owner: owner})
	}
	return shares, nil
}

// coherent are v9fs's options for a folder that the host may change: reads and writes go to the host, and only what is
// mapped into memory is kept. From 6.4 on cache=mmap keeps more, and its delayed writes lose data (sqlite's journal on
// 7.1) unless directio forbids it; older kernels pass over that word.
const coherent = "cache=mmap,directio"

// folderMounts returns the guest's mounts of the folders, those above before those below.
func (s Spec) folderMounts() []agentproto.Mount {
	var mounts []agentproto.Mount
	for i, f := range s.Folders {
		m := agentproto.Mount{Kind: agentproto.Mount9P, Source: folderTag(i), Target: f.target()}
		switch f.Mode {
		case FolderRO:
			m.ReadOnly, m.Options = true, coherent
		case FolderRW:
			// What a user of the guest makes shall be that user's.
			m.Options = "access=client," + coherent
		case FolderCOW:
			m.Overlay = true
		}
		mounts = append(mounts, m)
	}
	slices.SortStableFunc(mounts, func(a, b agentproto.Mount) int {
		return strings.Count(a.Target, "/") - strings.Count(b.Target, "/")
	})
	for i := range mounts {
		if mounts[i].ReadOnly {
			s.makePoints(&mounts[i], mounts[i+1:])
		}
	}
	return mounts
}

// makePoints makes room in m, which can't be written, for mounts below it whose places the host's folder lacks: in an overlay that can't be
// written either.
func (s Spec) makePoints(m *agentproto.Mount, others []agentproto.Mount) {
	host := ""
	for _, f := range s.Folders {
		if f.target() == m.Target {
			host = f.Host
		}
	}
	for _, other := range others {
		below, ok := strings.CutPrefix(other.Target, m.Target+"/")
		if !ok {
			continue
		}
		if _, err := os.Stat(filepath.Join(host, below)); errors.Is(err, fs.ErrNotExist) {
			m.Overlay, m.Points = true, append(m.Points, below)
		}
	}
}

// writtenFolders returns the paths of folders that the guest may change on the host.
func (s Spec) writtenFolders() []string {
	var paths []string
	for _, f := range s.Folders {
		if f.Mode == FolderRW {
			paths = append(paths, f.Host)
		}
	}
	return paths
}

// envOwner tells a process in the lab, which is root there, whose files those outside are: UID:GID.
const envOwner = "STILE_OWNER"

// ownerEnv returns the variable for a process in the lab, "" where this process is root.
func ownerEnv() string {
	if os.Geteuid() == 0 {
		return ""
	}
	return fmt.Sprintf("%s=%d:%d", envOwner, os.Geteuid(), os.Getegid())
}

// shareOwner returns who stands behind the guest's root in folders. It is nil where this process may give files to
// anyone: the guest's users are the host's then.
func shareOwner() (*share.Owner, error) {
	if text := os.Getenv(envOwner); text != "" && Nested() {
		uid, gid, _ := strings.Cut(text, ":")
		u, err1 := strconv.ParseUint(uid, 10, 32)
		g, err2 := strconv.ParseUint(gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("%s=%s: want UID:GID: %w", envOwner, text, err)
		}
		return &share.Owner{UID: uint32(u), GID: uint32(g)}, nil
	}
	if os.Geteuid() == 0 {
		return nil, nil
	}
	return &share.Owner{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}, nil
}
