package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/trust"
)

// EnvDir names the environment variable that says where sockets are.
const EnvDir = "STILE_RUN_DIR"

// Dir returns the folder of the sockets and makes it: what EnvDir names, else stile in the
// user's own runtime folder ($XDG_RUNTIME_DIR), else /run/stile for root, else one for temporary
// files. It is the caller's alone.
func Dir() (string, error) {
	dir := dirName()
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("folder of control sockets: %w (%s names another)", err, EnvDir)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return "", fmt.Errorf("folder of control sockets %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Getuid() || st.Mode&0o022 != 0 {
		return "", fmt.Errorf("folder of control sockets: %s is not a folder that only you can write to; %s names another", dir, EnvDir)
	}
	if err := trust.Root(dir); err != nil {
		return "", fmt.Errorf("folder of control sockets: %s is not safe for root: %w; %s names another", dir, err, EnvDir)
	}
	return dir, nil
}

func dirName() string {
	if dir := os.Getenv(EnvDir); dir != "" {
		return dir
	}
	// sudo and the like may leave that of the user who called them.
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && owned(dir) {
		return filepath.Join(dir, "stile")
	}
	if os.Getuid() == 0 {
		return "/run/stile"
	}
	return filepath.Join(trust.TempDir(), "stile-run-"+strconv.Itoa(os.Getuid()))
}

// owned reports whether a folder is the caller's.
func owned(dir string) bool {
	var st unix.Stat_t
	return unix.Stat(dir, &st) == nil && int(st.Uid) == os.Getuid()
}

// SocketSuffix follows the ID in the name of a socket.
const SocketSuffix = ".sock"

// VsockSuffix follows the ID in the name of the socket for the VM's vsock ports.
const VsockSuffix = ".vsock"

func socketPath(dir, id string) string { return filepath.Join(dir, id+SocketSuffix) }

// Path returns the path of a VM's socket.
func Path(id string) (string, error) {
	if err := CheckID(id); err != nil {
		return "", err
	}
	dir, err := Dir()
	return socketPath(dir, id), err
}
