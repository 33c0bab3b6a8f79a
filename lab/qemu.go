package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/child"
	"github.com/stile-vmm/stile/internal/limit"
)

// EnvQEMU names the QEMU binary to use instead of the one in PATH.
const EnvQEMU = "STILE_QEMU"

const qemuName = "qemu-system-x86_64"

// minVersion is the oldest QEMU that the machine was tried with.
var minVersion = Version{7, 2, 0}

// Version is QEMU's version.
type Version struct{ Major, Minor, Micro int }

// String returns "7.2.0".
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

func (v Version) less(w Version) bool {
	if v.Major != w.Major {
		return v.Major < w.Major
	}
	if v.Minor != w.Minor {
		return v.Minor < w.Minor
	}
	return v.Micro < w.Micro
}

// QEMU is a binary that was found.
type QEMU struct {
	// Path is absolute, with symbolic links resolved.
	Path string
	// Identity changes when the binary does: its path, size, time and file number.
	// Asking for the version instead would cost 20 ms each time. A script, which stays the same when
	// the QEMU behind it is another one, is asked.
	Identity string
}

// FindQEMU finds QEMU: what STILE_QEMU names, or qemu-system-x86_64 in PATH. It doesn't run it, unless it is a script.
// The error names the package to install.
func FindQEMU() (*QEMU, error) {
	name := qemuName
	if v := os.Getenv(EnvQEMU); v != "" {
		name = v
	}
	path, err := exec.LookPath(name)
	if err != nil && name != qemuName {
		return nil, fmt.Errorf("%s=%s: %w", EnvQEMU, name, err)
	}
	if err != nil {
		if path, err = outsideOfPath(err); err != nil {
			return nil, err
		}
	}
	return openQEMU(path)
}

// outsideOfPath finds QEMU where distributions put it. It is used if there is no PATH at all, and named in the error if
// PATH leads elsewhere.
func outsideOfPath(err error) (string, error) {
	for _, dir := range []string{"/usr/bin", "/usr/local/bin", "/bin"} {
		path := filepath.Join(dir, qemuName)
		if found, lookErr := exec.LookPath(path); lookErr == nil {
			if os.Getenv("PATH") == "" {
				return found, nil
			}
			return "", &NoQEMUError{Found: found, Err: err}
		}
	}
	return "", &NoQEMUError{Remedy: InstallCommand(), Err: err}
}

func openQEMU(path string) (*QEMU, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find QEMU: %w", err)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, fmt.Errorf("find QEMU: %w", err)
	}
	id, err := fileIdentity(path)
	if err != nil {
		return nil, fmt.Errorf("find QEMU: %w", err)
	}
	q := &QEMU{Path: path, Identity: id}
	q.addWrapped()
	return q, nil
}

// NoQEMUError says that there is no QEMU, or that it is too old.
type NoQEMUError struct {
	// Remedy is the command to run, "" where the distribution is not known.
	Remedy string
	// Found is a QEMU that is installed in a folder that PATH doesn't name, "" for none.
	Found string
	// Err is what was tried.
	Err error
}

// Error returns cause and remedy in one line.
func (e *NoQEMUError) Error() string {
	if e.Found != "" {
		return fmt.Sprintf("the lab needs QEMU %d.%d or later: %v: add %s to PATH, or set %s=%s",
			minVersion.Major, minVersion.Minor, e.Err, filepath.Dir(e.Found), EnvQEMU, e.Found)
	}
	remedy := e.Remedy
	if remedy == "" {
		remedy = "install " + qemuName
	}
	return fmt.Sprintf("the lab needs QEMU %d.%d or later: %v: run `%s`, or name a binary in %s",
		minVersion.Major, minVersion.Minor, e.Err, remedy, EnvQEMU)
}

// Unwrap returns the cause.
func (e *NoQEMUError) Unwrap() error { return e.Err }

// Version asks the binary for its version, and refuses one that is too old.
func (q *QEMU) Version(ctx context.Context) (Version, error) {
	cmd := exec.CommandContext(ctx, q.Path, "--version")
	cmd.Dir = "/"
	out, err := child.Output(cmd)
	if err != nil {
		return Version{}, limit.Explain(fmt.Errorf("%s --version: %w%s", q.Path, err, said(err)))
	}
	v, err := parseVersion(string(out))
	if err != nil {
		return Version{}, fmt.Errorf("%s --version: %w", q.Path, err)
	}
	if v.less(minVersion) {
		return v, &NoQEMUError{Remedy: InstallCommand(), Err: fmt.Errorf("%s is version %v", q.Path, v)}
	}
	return v, nil
}

// said returns what a program that failed has said on stderr, for an error message.
func said(err error) string {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return ""
	}
	log := newTail(logLimit)
	log.Write(exit.Stderr)
	const last = 3
	if lines := log.lines(last); len(lines) > 0 {
		return ": it said: " + strings.Join(lines, " | ")
	}
	return ""
}

// parseVersion reads the first line of `qemu --version`:
// "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)".
func parseVersion(out string) (Version, error) {
	line, _, _ := strings.Cut(out, "\n")
	_, after, ok := strings.Cut(line, "QEMU emulator version ")
	fields := strings.Fields(after)
	if !ok || len(fields) == 0 {
		return Version{}, fmt.Errorf("%.80q is not QEMU's version", line)
	}
	var v Version
	parts := strings.Split(fields[0], ".")
	if len(parts) < 2 || len(parts) > 4 {
		return Version{}, fmt.Errorf("%.80q is not a version", fields[0])
	}
	for i, n := range []*int{&v.Major, &v.Minor, &v.Micro} {
		if i >= len(parts) {
			break
		}
		number, err := strconv.ParseUint(leadingDigits(parts[i]), 10, 16)
		if err != nil {
			return Version{}, fmt.Errorf("%.80q is not a version", fields[0])
		}
		*n = int(number)
	}
	return v, nil
}

// leadingDigits cuts "0-rc1" to "0".
func leadingDigits(s string) string {
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		return s
	}
	return s[:end]
}

// packages says how QEMU is installed, by os-release's ID or ID_LIKE. The firmware comes
// as a dependency of each; option ROMs, which some recommend, are not used.
var packages = map[string]string{
	"debian":   "apt-get install --no-install-recommends qemu-system-x86",
	"ubuntu":   "apt-get install --no-install-recommends qemu-system-x86",
	"fedora":   "dnf install qemu-system-x86-core",
	"rhel":     "dnf install qemu-system-x86-core",
	"arch":     "pacman -S qemu-system-x86",
	"alpine":   "apk add qemu-system-x86_64",
	"opensuse": "zypper install qemu-x86",
	"suse":     "zypper install qemu-x86",
	"gentoo":   "emerge app-emulation/qemu",
	"nixos":    "nix-env -iA nixos.qemu",
	"void":     "xbps-install qemu-system-amd64",
}

// InstallCommand returns the command that installs QEMU on this distribution, "" when it is not known.
func InstallCommand() string {
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		if data, err := os.ReadFile(path); err == nil {
			return installCommand(data)
		}
	}
	return ""
}

func installCommand(osRelease []byte) string {
	var id, like string
	lines := bufio.NewScanner(bytes.NewReader(osRelease))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "ID":
			id = value
		case "ID_LIKE":
			like = value
		}
	}
	for _, name := range append([]string{id}, strings.Fields(like)...) {
		family, _, _ := strings.Cut(name, "-") // opensuse-leap
		if command, ok := packages[family]; ok {
			return command
		}
	}
	return ""
}

// fileIdentity tells whether a file is still the same, without reading it.
func fileIdentity(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", &fs.PathError{Op: "stat", Path: path, Err: errors.New("not a regular file")}
	}
	return fmt.Sprintf("%s size %d mtime %d.%09d inode %d", path, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ino), nil
}
