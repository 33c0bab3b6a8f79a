package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// layers is where the parts of overlays are mounted: in the initramfs, where the new
// root hides them, and for further mounts below /run.
const layers = "/.stile"

// setup implements machine.
func (g *guest) setup(s *agentproto.Setup) error { return g.blameModules(g.makeReady(s)) }

func (g *guest) makeReady(s *agentproto.Setup) error {
	if s.UnixNano != 0 {
		ts := unix.NsecToTimespec(s.UnixNano)
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
			return fmt.Errorf("set the clock: %w", err)
		}
	}
	if s.Hostname != "" {
		if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
			return fmt.Errorf("set the host name: %w", err)
		}
	}
	if s.ConsoleLevel > 0 {
		// The level is in the place of a buffer's length (syslog(2)). A kernel without a log has nothing to print.
		_, _ = unix.Klogctl(unix.SYSLOG_ACTION_CONSOLE_LEVEL, make([]byte, s.ConsoleLevel))
	}
	if err := setupPCI(s); err != nil {
		return err
	}
	if err := setupNets(s.Nets); err != nil {
		return err
	}
	if s.Root.Kind != agentproto.MountNone {
		if err := mountAt(&s.Root, layers+"/root", layers+"/0"); err != nil {
			return fmt.Errorf("mount the root: %w", err)
		}
		if err := switchRoot(layers+"/root", s.Root.Overlay, s.Keep); err != nil {
			return fmt.Errorf("make %s the root: %w", s.Root.Source, err)
		}
	}
	// In the new root, whose symbolic links lead where they should.
	for i := range s.Mounts {
		m := &s.Mounts[i]
		if err := mountAt(m, m.Target, fmt.Sprintf("/run%s/%d", layers, i+1)); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	if err := setupModules(s.Modules); err != nil {
		return err
	}
	env, err := offerPrograms(s.Env)
	if err != nil {
		return fmt.Errorf("offer programs for kernel modules: %w", err)
	}
	s.Env = env
	if s.Program != "" {
		os.MkdirAll(filepath.Dir(s.Program), 0o755)
		if err := os.Symlink("/proc/1/exe", s.Program); err != nil {
			return fmt.Errorf("link the agent: %w", err)
		}
	}
	if s.Hostname != "" {
		_ = nameHost("/", s.Hostname) // best effort, as below
	}
	if s.Resolv != "" {
		// Best effort: a read-only root has its own idea of name servers.
		os.MkdirAll("/etc", 0o755)
		os.Remove("/etc/resolv.conf") // often a link to a daemon's file that isn't here
		os.WriteFile("/etc/resolv.conf", []byte(s.Resolv), 0o644)
	}
	return nil
}

// mountAt mounts m at target. Overlays put their layers below scratch.
func mountAt(m *agentproto.Mount, target, scratch string) error {
	if !m.Overlay {
		if err := makeTarget(m, target); err != nil {
			return err
		}
		return mountSource(m, target, m.ReadOnly)
	}
	lower, memory := scratch+"/lower", scratch+"/memory"
	upper, work := memory+"/upper", memory+"/work"
	if err := os.MkdirAll(lower, 0o755); err != nil {
		return err
	}
	if err := mountSource(m, lower, true); err != nil {
		return err
	}
	if err := os.MkdirAll(memory, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", memory, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("tmpfs for the overlay: %w", err)
	}
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return err
	}
	if err := copyOwner(lower, upper); err != nil {
		return err
	}
	for _, point := range m.Points {
		if err := makePoint(lower, upper, point); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	flags := uintptr(0)
	if m.ReadOnly {
		flags = unix.MS_RDONLY
	}
	// The lower layer's inode numbers are kept only within one file system: a share may span several.
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,xino=off", lower, upper, work)
	if err := unix.Mount("overlay", target, "overlay", flags, data); err != nil {
		return missing("overlay", err)
	}
	return nil
}

// makePoint makes a folder of the upper layer and those above it, like those that the lower one has.
func makePoint(lower, upper, point string) error {
	above := ""
	for name := range strings.SplitSeq(point, "/") {
		above = filepath.Join(above, name)
		if err := os.Mkdir(filepath.Join(upper, above), 0o755); errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return err
		}
		if err := copyOwner(filepath.Join(lower, above), filepath.Join(upper, above)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// copyOwner gives a folder the mode and the owner of another one: an overlay's top has those of its upper layer.
func copyOwner(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: from, Err: err}
	}
	return errors.Join(os.Chown(to, int(st.Uid), int(st.Gid)), unix.Chmod(to, st.Mode&^unix.S_IFMT))
}

// mountSource mounts where m's files come from.
func mountSource(m *agentproto.Mount, target string, readOnly bool) error {
	var flags uintptr
	if readOnly {
		flags = unix.MS_RDONLY
	}
	switch m.Kind {
	case agentproto.Mount9P:
		return missing("9p", unix.Mount(m.Source, target, "9p", flags, options(options9P(readOnly), m.Options)))
	case agentproto.MountFS:
		return missing("virtiofs", unix.Mount(m.Source, target, "virtiofs", flags, m.Options))
	case agentproto.MountTmpfs:
		return missing("tmpfs", unix.Mount("tmpfs", target, "tmpfs", flags, m.Options))
	case agentproto.MountBlock:
		return mountBlock(m, target, flags)
	case agentproto.MountBind:
		return unix.Mount(m.Source, target, "", unix.MS_BIND, "")
	}
	return fmt.Errorf("unknown kind of mount %q", m.Kind)
}

// options9P are v9fs's options. One attach for all users, with permissions checked by the guest's kernel. What can't be written
// here may be cached for good, but for names that are not there, which Linux from 7.2 on would keep for a day: the host may
// add them. Older kernels keep none, and pass over that word. A share that both sides write is cached only for mmap.
func options9P(readOnly bool) string {
	const common = "trans=virtio,version=9p2000.L,msize=512000,access=any,"
	if readOnly {
		return common + "cache=loose,negtimeout=0"
	}
	return common + "cache=mmap"
}

// options joins the agent's own options and the host's, which the kernel reads last.
func options(own, given string) string {
	if given == "" {
		return own
	}
	return own + "," + given
}

// missing explains the error for a file system that the kernel doesn't have.
func missing(fstype string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("this kernel has no %s, neither built in nor as a module that was given: boot one that has it, or name the folder of its modules with --modules: %w", fstype, err)
	}
	return fmt.Errorf("mount %s: %w", fstype, err)
}

// mountBlock mounts a block device, trying every file system when none is named.
func mountBlock(m *agentproto.Mount, target string, flags uintptr) error {
	if m.FSType != "" {
		return missing(m.FSType, unix.Mount(m.Source, target, m.FSType, flags, m.Options))
	}
	list, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(list)) {
		fstype, needsDevice := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "\t")
		if !needsDevice {
			continue
		}
		err = unix.Mount(m.Source, target, fstype, flags, m.Options)
		if err == nil {
			return nil
		}
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTBLK) || errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	if parts := partitions("/sys/class/block", m.Source); len(parts) > 0 {
		return fmt.Errorf("%s has a partition table (%s), and no file system of its own: --root takes the image of one file system; "+
			"give the image with --disk and mount a partition, or copy the partition's image out (losetup -P, dd)", m.Source, strings.Join(parts, ", "))
	}
	return fmt.Errorf("%s has no file system that this kernel knows", m.Source)
}

// partitions returns the names of a block device's partitions, which are folders of the device's below dir, /sys/class/block.
func partitions(dir, device string) []string {
	disk := filepath.Base(device)
	found, _ := filepath.Glob(filepath.Join(dir, disk, disk+"*", "partition"))
	names := make([]string, 0, len(found))
	for _, path := range found {
		names = append(names, filepath.Base(filepath.Dir(path)))
	}
	return names
}

// makeTarget makes the folder to mount on, unless something is there. Where the
// root can't be written the mount itself tells.
func makeTarget(m *agentproto.Mount, target string) error {
	if _, err := os.Stat(target); err == nil {
		return nil
	}
	dir := target
	file := isFile(m)
	if file {
		dir = filepath.Dir(target)
	}
	err := os.MkdirAll(dir, 0o755)
	if err == nil && file {
		err = os.WriteFile(target, nil, 0o644)
	}
	if err != nil {
		return fmt.Errorf("%w (a mount in a read-only root needs an existing place)", err)
	}
	return nil
}

// isFile reports whether m shows a file, not a folder.
func isFile(m *agentproto.Mount) bool {
	if m.Kind != agentproto.MountBind {
		return false
	}
	info, err := os.Stat(m.Source)
	return err == nil && !info.IsDir()
}

// Preload is a folder in the initramfs whose files stay reachable, at Preloaded, when the
// root is another: what a lab's machine holds in memory for its guests.
const (
	Preload   = "/preload"
	Preloaded = "/run/stile-preload"
)

func keepPreloaded() error {
	if _, err := os.Stat(Preload); err != nil {
		return nil
	}
	if err := os.MkdirAll(Preloaded, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(Preload, Preloaded, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("keep %s: %w", Preload, err)
	}
	return nil
}

// switchRoot makes root the root of this process and of all to come. The
// initramfs can't be unmounted or pivoted away: the new root is moved over it, as switch_root(8) does.
// A copy-on-write root keeps its own /tmp: the working folder may be there. keep are other paths that stay in sight.
func switchRoot(root string, overlay bool, keep []string) error {
	if err := keepPreloaded(); err != nil {
		return err
	}
	inSight := openKept(root, keep)
	for _, dir := range carried {
		if dir == "/tmp" && overlay {
			continue
		}
		target := filepath.Join(root, dir)
		os.MkdirAll(target, 0o755)
		if err := unix.Mount(dir, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	var errs []error
	for _, k := range inSight {
		errs = append(errs, k.show())
	}
	return errors.Join(errs...)
}
