package agentproto

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// Request is the first message on a stream that the host opens. Exactly one field is set.
type Request struct {
	Setup  *Setup  `json:"setup,omitempty"`
	Exec   *Exec   `json:"exec,omitempty"`
	Attach *Attach `json:"attach,omitempty"`
	Push   *Push   `json:"push,omitempty"`
	Pull   *Pull   `json:"pull,omitempty"`
	Power  *Power  `json:"power,omitempty"`
	Dial   *Dial   `json:"dial,omitempty"`
	Listen *Listen `json:"listen,omitempty"`
	Accept *Accept `json:"accept,omitempty"`
	Kmsg   *Kmsg   `json:"kmsg,omitempty"`
}

// Validate checks that exactly one request is set and that it is well formed.
func (r *Request) Validate() error {
	var set []interface{ validate() error }
	if r.Setup != nil {
		set = append(set, r.Setup)
	}
	if r.Exec != nil {
		set = append(set, r.Exec)
	}
	if r.Attach != nil {
		set = append(set, r.Attach)
	}
	if r.Push != nil {
		set = append(set, r.Push)
	}
	if r.Pull != nil {
		set = append(set, r.Pull)
	}
	if r.Power != nil {
		set = append(set, r.Power)
	}
	if r.Dial != nil {
		set = append(set, r.Dial)
	}
	if r.Listen != nil {
		set = append(set, r.Listen)
	}
	if r.Accept != nil {
		set = append(set, r.Accept)
	}
	if r.Kmsg != nil {
		set = append(set, r.Kmsg)
	}
	if len(set) != 1 {
		return fmt.Errorf("a request must say one thing, this one says %d", len(set))
	}
	return set[0].validate()
}

// ReadRequest reads and validates a Request.
func ReadRequest(r io.Reader) (*Request, error) {
	req := new(Request)
	if err := ReadMessage(r, MaxRequest, req); err != nil {
		return nil, err
	}
	if err := req.Validate(); err != nil {
		return nil, err
	}
	return req, nil
}

// maxConsoleLevel prints everything.
const maxConsoleLevel = 8

// Setup makes the machine ready for commands. It comes at most once.
// The agent answers with an empty Reply, or one with an Error.
type Setup struct {
	// Hostname is left alone when empty.
	Hostname string `json:"hostname,omitempty"`
	// UnixNano is the wall clock, in ns since 1970; 0 leaves the guest's clock alone.
	UnixNano int64 `json:"unix_ns,omitempty"`
	// Root becomes "/". Its Target is not looked at.
	Root Mount `json:"root"`
	// Mounts are made in the new root, in order.
	Mounts []Mount `json:"mounts,omitempty"`
	// Env is the environment that commands start from, as KEY=VALUE.
	Env []string `json:"env,omitempty"`
	// Resolv replaces /etc/resolv.conf when not empty and the root can be written.
	Resolv string `json:"resolv,omitempty"`
	// Modules is the folder of the running kernel's modules, in the new root. It is linked to
	// /lib/modules/RELEASE unless that is there.
	Modules string `json:"modules,omitempty"`
	// Program is a path in the new root that becomes a link to the agent's own binary.
	Program string `json:"program,omitempty"`
	// Keep are paths of the new root that the guest's own file systems, such as /run, do not hide. One that does not exist is
	// left out.
	Keep []string `json:"keep,omitempty"`
	// ConsoleLevel is the least severe level of kernel messages that the console doesn't get any more, as for
	// loglevel= (Documentation/admin-guide/kernel-parameters.txt); 0 leaves it alone.
	ConsoleLevel int `json:"console_level,omitempty"`
	// PCI are the addresses of functions that must be there before anything is mounted.
	PCI []string `json:"pci,omitempty"`
	// Nets are the machine's virtio network cards, in the order of their PCI addresses.
	Nets []Net `json:"nets,omitempty"`
}

// MountKind says where a Mount's files come from.
type MountKind string

// The kinds of mount.
const (
	// MountNone, for Root only, stays in the initramfs.
	MountNone MountKind = ""
	// Mount9P is a 9p share, Source its tag.
	Mount9P MountKind = "9p"
	// MountFS is a virtio-fs share, Source its tag.
	MountFS MountKind = "virtiofs"
	// MountBlock is a block device, Source its path ("/dev/vda"), FSType its file system.
	MountBlock MountKind = "block"
	// MountBind shows what is at the path Source, in the new root, at Target too.
	MountBind MountKind = "bind"
	// MountTmpfs is an empty file system in memory.
	MountTmpfs MountKind = "tmpfs"
)

// Mount is one file system of the guest.
type Mount struct {
	Kind   MountKind `json:"kind,omitempty"`
	Source string    `json:"source,omitempty"`
	// Target is an absolute path in the new root. It is made when it does not exist;
	// a source that is a single file needs a Target that is a file.
	Target string `json:"target,omitempty"`
	// FSType is for MountBlock; when empty, every file system that the kernel knows is tried.
	FSType string `json:"fstype,omitempty"`
	// ReadOnly mounts read-only.
	ReadOnly bool `json:"ro,omitempty"`
	// Overlay mounts read-only and lays a copy-on-write layer in memory over it.
	Overlay bool `json:"overlay,omitempty"`
	// Points are paths below Target, for an Overlay that is also ReadOnly: folders that are made in it, for other mounts.
	Points []string `json:"points,omitempty"`
	// Options are added to the agent's own, separated by commas, and win over them.
	Options string `json:"options,omitempty"`
}

func (s *Setup) validate() error {
	if s.ConsoleLevel < 0 || s.ConsoleLevel > maxConsoleLevel {
		return fmt.Errorf("console level %d: must be 0 to %d", s.ConsoleLevel, maxConsoleLevel)
	}
	errs := []error{checkText("hostname", s.Hostname), checkEnv(s.Env), s.Root.check("root"), checkText("modules", s.Modules), checkText("program", s.Program)}
	for _, bdf := range s.PCI {
		if bdf == "" || strings.ContainsAny(bdf, "/\x00") {
			errs = append(errs, fmt.Errorf("PCI address %q is none", bdf))
		}
	}
	for i := range s.Nets {
		errs = append(errs, s.Nets[i].check())
	}
	for _, path := range s.Keep {
		if !strings.HasPrefix(path, "/") || path != filepath.Clean(path) || strings.Contains(path, "\x00") {
			errs = append(errs, fmt.Errorf("path to keep %q is not absolute and clean", path))
		}
	}
	for _, m := range s.Mounts {
		if m.Kind == MountNone {
			errs = append(errs, fmt.Errorf("mount %q has no kind", m.Target))
		}
		if !strings.HasPrefix(m.Target, "/") {
			errs = append(errs, fmt.Errorf("mount target %q is not an absolute path", m.Target))
		}
		errs = append(errs, m.check("mount"))
	}
	return errors.Join(errs...)
}

func (m *Mount) check(what string) error {
	switch m.Kind {
	case MountNone, MountTmpfs:
	case Mount9P, MountFS, MountBlock, MountBind:
		if m.Source == "" {
			return fmt.Errorf("%s of kind %s has no source", what, m.Kind)
		}
	default:
		return fmt.Errorf("%s has unknown kind %q", what, m.Kind)
	}
	for _, point := range m.Points {
		if !filepath.IsLocal(point) {
			return fmt.Errorf("%s %q: the place %q for a mount is not below it", what, m.Target, point)
		}
	}
	return errors.Join(checkText("source", m.Source), checkText("target", m.Target),
		checkText("file system", m.FSType), checkText("options", m.Options))
}

// Exec starts a command. The agent answers with a Reply that has Started or an Error,
// later with one that has Exit. In between the host sends any number of Control.
type Exec struct {
	// ID names the command in its Attach messages. The host never uses one twice.
	ID uint64 `json:"id"`
	// Args is the command and its arguments. A command without a slash is looked up in
	// the PATH of its environment.
	Args []string `json:"args"`
	// Path is the program where it is another than Args[0].
	Path string `json:"path,omitempty"`
	// Env is added to Setup's, as KEY=VALUE; the last of several values wins.
	Env []string `json:"env,omitempty"`
	// Dir is the working directory, "/" when empty.
	Dir string `json:"dir,omitempty"`
	// User runs the command as somebody else than root.
	User *User `json:"user,omitempty"`
	// Umask is the command's file mode creation mask; nil leaves the agent's.
	Umask *uint32 `json:"umask,omitempty"`
	// Streams are the standard streams that are attached. The others are /dev/null.
	Streams []Stream `json:"streams,omitempty"`
	// TTY asks for a terminal, attached as StreamTTY, which must be the only stream.
	TTY *Winsize `json:"tty,omitempty"`
}

// User is who a command runs as.
type User struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
}

// Winsize is a terminal's size in characters.
type Winsize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Stream is a command's standard stream.
type Stream string

// The standard streams.
const (
	Stdin     Stream = "stdin"
	Stdout    Stream = "stdout"
	Stderr    Stream = "stderr"
	StreamTTY Stream = "tty"
	// Output is standard output and standard error as one pipe, for a host where both go to the same place: apart, they
	// would lose their order.
	Output Stream = "output"
)

func (s Stream) check() error {
	switch s {
	case Stdin, Stdout, Stderr, Output, StreamTTY, StreamDial:
		return nil
	}
	return fmt.Errorf("unknown stream %q", s)
}

// Program returns the command's name or path.
func (e *Exec) Program() string {
	if e.Path != "" {
		return e.Path
	}
	return e.Args[0]
}

func (e *Exec) validate() error {
	if len(e.Args) == 0 || e.Program() == "" {
		return errors.New("a command needs a name")
	}
	errs := []error{checkEnv(e.Env), checkText("working directory", e.Dir), checkText("program", e.Path)}
	if e.Umask != nil && *e.Umask > 0o777 {
		errs = append(errs, fmt.Errorf("umask %o is more than 777", *e.Umask))
	}
	for _, arg := range e.Args {
		errs = append(errs, checkText("argument", arg))
	}
	seen := make(map[Stream]bool)
	for _, s := range e.Streams {
		if seen[s] {
			errs = append(errs, fmt.Errorf("stream %s twice", s))
		}
		seen[s] = true
		if err := s.check(); err != nil {
			return err // before an unbounded list of them is joined
		}
		if s == StreamDial {
			return fmt.Errorf("stream %s is no command's", s)
		}
	}
	if seen[Output] && (seen[Stdout] || seen[Stderr]) {
		errs = append(errs, fmt.Errorf("stream %s is both %s and %s", Output, Stdout, Stderr))
	}
	if (e.TTY != nil) != seen[StreamTTY] || seen[StreamTTY] && len(seen) != 1 {
		errs = append(errs, errors.New("a terminal is the only stream of its command"))
	}
	return errors.Join(errs...)
}

// Attach makes the stream that it comes on a standard stream of a command to come.
// It has no reply.
type Attach struct {
	ID     uint64 `json:"id"`
	Stream Stream `json:"stream"`
}

func (a *Attach) validate() error { return a.Stream.check() }

// Control is what the host sends to a running command. A field of 0 or nil says nothing.
type Control struct {
	// Signal goes to the command's process group.
	Signal int `json:"signal,omitempty"`
	// Resize sets the terminal's size.
	Resize *Winsize `json:"resize,omitempty"`
}

// Validate checks the signal's number.
func (c *Control) Validate() error {
	if c.Signal < 0 || c.Signal > 64 {
		return fmt.Errorf("no signal has number %d", c.Signal)
	}
	return nil
}

// ReadControl reads and validates a Control.
func ReadControl(r io.Reader) (*Control, error) {
	c := new(Control)
	if err := ReadMessage(r, MaxReply, c); err != nil {
		return nil, err
	}
	return c, c.Validate()
}

// Push writes a file: Size bytes follow. The agent answers with an empty Reply when the file is complete.
// The file appears at once and whole; folders above it are made.
type Push struct {
	Path string `json:"path"`
	// Mode holds the permission bits.
	Mode uint32 `json:"mode"`
	// Size counts bytes.
	Size int64 `json:"size"`
	// Chunks says that the size is not known: then chunks follow.
	Chunks bool `json:"chunks,omitempty"`
}

func (p *Push) validate() error {
	if p.Size < 0 {
		return fmt.Errorf("push %q: size %d", p.Path, p.Size)
	}
	return checkPath("push", p.Path)
}

// Pull reads a regular file to its end: the agent answers with a Reply that has File, sends chunks, and then a Reply that says
// whether this was all.
type Pull struct {
	Path string `json:"path"`
}

func (p *Pull) validate() error { return checkPath("pull", p.Path) }

// Power ends the machine. The agent answers with an empty Reply, then kills what
// still runs, writes out and unmounts the disks.
type Power struct {
	// Reboot asks for a reset instead of power off.
	Reboot bool `json:"reboot,omitempty"`
}

func (p *Power) validate() error { return nil }

func checkPath(what, path string) error {
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("%s: %q is not an absolute path", what, path)
	}
	return checkText("path", path)
}

func checkEnv(env []string) error {
	for _, kv := range env {
		if i := strings.IndexByte(kv, '='); i <= 0 {
			return fmt.Errorf("environment entry %q is not KEY=VALUE", kv)
		}
		if err := checkText("environment entry", kv); err != nil {
			return err
		}
	}
	return nil
}

// checkText refuses the NUL byte, which ends a string for the kernel.
func checkText(what, s string) error {
	if i := strings.IndexByte(s, 0); i >= 0 {
		return fmt.Errorf("%s %q has a NUL byte", what, s)
	}
	return nil
}
