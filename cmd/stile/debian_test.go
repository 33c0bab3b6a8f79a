package main

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/internal/control"
	"github.com/stile-vmm/stile/internal/testenv"
)

// debianKernel returns stile's cache and Debian's stock kernel from there, whose modules are indexed.
func debianKernel(t *testing.T) (*images.Cache, *distro.Kernel) {
	t.Helper()
	cache, err := images.Open("")
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := distro.Fetch(t.Context(), cache, "6.1", func(what string) { t.Log(what) })
	if err != nil {
		testenv.Missing(t, "apt", err.Error())
	}
	// Tests run stile in a nested host, which has too little memory to make the copy itself.
	if _, err := cache.IndexedModules(t.Context(), kernel.Modules, kernel.Release, false); err != nil {
		t.Fatal(err)
	}
	return cache, kernel
}

// TestDebianKernel boots Debian's stock kernel by its version, an xz bzImage whose virtio, 9p and overlay
// are modules, with a view of the host's root, and loads others of its modules: with these, vsock and the balloon are
// tried, and from outside all that stile ps, ctl, console and logs do.
func TestDebianKernel(t *testing.T) {
	needGuests(t)
	_, kernel := debianKernel(t)
	dir, err := os.MkdirTemp("", "stile-run-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	t.Setenv(control.EnvDir, dir)
	vm := &watched{t: t, id: "debian"}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "debian.vsock_80")})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()

	run := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "run", "--name", vm.id, "--vsock", "auto", "--balloon",
		"-k", "debian:6.1", "--", "sh", "-c", `
		uname -r && modprobe dummy && grep -q ^dummy /proc/modules || exit 4
		modprobe vmw_vsock_virtio_transport && modprobe virtio_balloon || exit 5
		echo "<1>the console speaks" >/dev/kmsg
		echo question | `+tools+`/vsock dial 80 || exit 6
		`+tools+`/vsock dial 81 </dev/null && exit 7
		exec `+tools+`/vsock echo 1234`)
	run.Stderr = os.Stderr
	stdout, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(processLimit, func() { run.Process.Kill() })
	defer kill.Stop()
	lines := bufio.NewScanner(stdout)
	for _, want := range []string{kernel.Release, "answer", "listening"} {
		if !lines.Scan() || lines.Text() != want {
			_ = run.Wait() // the state tells
			t.Fatalf("the guest says %q, want %q; exit status %d", lines.Text(), want, run.ProcessState.ExitCode())
		}
		if want == kernel.Release {
			vm.fromGuest(listener, "question\n", "answer\n")
		}
	}
	vm.shown(kernel.Release)
	vm.toGuest(1234, 1<<20)
	vm.console("the console speaks")
	vm.balloon(8 << 20)
	stile(t, "ctl", vm.id, "shutdown")
	if code := exitCode(t, run); code != 143 {
		t.Errorf("exit status %d, want 143", code)
	}
	if log := stile(t, "logs", vm.id); !strings.Contains(log, "the console speaks") {
		t.Errorf("the log has %q", log)
	}
	if list := stile(t, "ps", "-q"); list != "" {
		t.Errorf("left: %q", list)
	}
}

// TestModulesWithoutKmod has a guest whose root has no modprobe load modules: by the command, and by the kernel's own request when a
// device node is opened that is there from the start.
func TestModulesWithoutKmod(t *testing.T) {
	needGuests(t)
	debianKernel(t)
	out := stile(t, "run", "--root", "uroot", "-k", "debian:6.1", "--", "sh", "-c",
		`modprobe dummy; ip link; cat /dev/net/tun; lsmod; modprobe nosuch; modprobe --show-depends fs-xfs`)
	for _, want := range []string{"dummy0:", "\ntun ", "/libcrc32c.ko \ninsmod /lib/modules/"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in %s", want, out)
		}
	}
}
