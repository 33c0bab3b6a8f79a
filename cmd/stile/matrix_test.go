package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/images/kbuild"
	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/lab"
	"github.com/stile-vmm/stile/vmtest"
)

const (
	// newestSuite is where the newest QEMU is packaged, newestKernel the newest kernel.
	newestSuite  = "sid"
	newestKernel = "7.2@" + newestSuite
	installed    = "installed" // the QEMU in PATH
	singleNVMe   = "0000:03:00.0"
	// newestMemory is what the newest packaged kernel needs as a guest: its modules take more than guestMemory.
	newestMemory = "512M"
)

// matrix is what of each nested host is tried, in the order of the table's columns.
type matrix struct {
	dir    string // has kvm.test and micro.test
	newest *distro.Kernel
	cache  *images.Cache
	rows   []string
	soak   bool // the newest kernel as a guest, too: it takes a minute to boot in there
}

var matrixColumns = []string{
	"doctor", "package kvm", "micro-guests", "guest default", "passthrough default", "wrap default",
	"guest newest", "passthrough newest", "wrap newest",
}

// TestMatrix tries QEMUs and nested kernels: stile doctor, package kvm's tests and the micro-guests in the nested host, and guests
// with the default and the newest kernel there, bare, with a device, and with a wrapped one. make soak takes all
// QEMUs and kernels, make test the newest of both with the default guest. It logs the table of docs/lab.md.
func TestMatrix(t *testing.T) {
	needGuests(t)
	qemus, kernels := []string{newestSuite}, []string{newestKernel}
	if testenv.Soak() {
		qemus = []string{installed, "trixie", newestSuite}
		kernels = []string{guest.LabKernelDefault, guest.LabKernelBuilt, "6.1", "6.12", newestKernel}
	}
	if only := os.Getenv("STILE_MATRIX"); only != "" { // "QEMU KERNEL" or "QEMU"
		q, k, _ := strings.Cut(only, " ")
		qemus = []string{q}
		if k != "" {
			kernels = []string{k}
		}
	}
	m := newMatrix(t)
	m.soak = testenv.Soak() || os.Getenv("STILE_MATRIX") != ""
	for _, qemu := range qemus {
		for _, kernel := range kernels {
			t.Run(qemu+" "+kernel, func(t *testing.T) { m.host(t, qemu, kernel) })
		}
	}
	t.Logf("\n| QEMU | nested kernel | %s |\n|%s\n%s", strings.Join(matrixColumns, " | "),
		strings.Repeat("---|", len(matrixColumns)+2), strings.Join(m.rows, "\n"))
}

func newMatrix(t *testing.T) *matrix {
	t.Helper()
	m := &matrix{dir: t.TempDir()}
	for name, pkg := range map[string]string{"kvm.test": "../../kvm", "micro.test": "../../vmm"} {
		build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", filepath.Join(m.dir, name), pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	var err error
	if m.cache, err = images.Open(""); err != nil {
		t.Fatal(err)
	}
	m.newest = m.packaged(t, newestKernel)
	return m
}

// packaged returns a kernel of the distribution's.
func (m *matrix) packaged(t *testing.T, version string) *distro.Kernel {
	t.Helper()
	k, err := distro.Fetch(t.Context(), m.cache, version, func(what string) { t.Log(what) })
	if err != nil {
		testenv.Missing(t, "apt", err.Error())
	}
	return k
}

// qemu makes the lab take a QEMU: what is installed, or that of a suite, which hack/qemu unpacks.
func (m *matrix) qemu(t *testing.T, suite string) (version string) {
	t.Helper()
	path := "qemu-system-x86_64"
	if suite != installed {
		unpack := exec.CommandContext(t.Context(), "../../hack/qemu", suite)
		var errs bytes.Buffer
		unpack.Stderr = &errs
		out, err := unpack.Output()
		if err != nil {
			testenv.Missing(t, "apt", fmt.Sprintf("the QEMU of %s: %v: %s", suite, err, errs.String()))
		}
		path = strings.TrimSpace(string(out))
	}
	t.Setenv(lab.EnvQEMU, path)
	q, err := lab.FindQEMU()
	if err != nil {
		testenv.Missing(t, "lab", err.Error())
	}
	v, err := q.Version(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v.String()
}

// module builds the kernel module for wrapped devices, which would take minutes in the nested host. It returns why it can't be.
func (m *matrix) module(t *testing.T, kernel string) error {
	t.Helper()
	if kernel == guest.LabKernelBuilt {
		k, ok := kbuild.Cached(m.cache, kbuild.Options{})
		if !ok {
			testenv.Missing(t, "kernel-build", "it is not in the cache")
		}
		return buildModule(t.Context(), m.cache, k)
	}
	k := m.packaged(t, kernel)
	headers, err := distro.FetchHeaders(t.Context(), m.cache, k.Release, func(what string) { t.Log(what) })
	if err != nil {
		return err
	}
	with := *k
	with.Headers = headers
	return buildModule(t.Context(), m.cache, &with)
}

// host tries all in one nested host, and adds its row.
func (m *matrix) host(t *testing.T, qemu, kernel string) {
	version := m.qemu(t, qemu)
	config := vmtest.LabConfig{Topology: "singleton", Kernel: kernel}
	bare := kernel == guest.LabKernelDefault // has no VFIO
	var noModule error
	if bare {
		config.Topology = "plain"
	} else {
		noModule = m.module(t, kernel)
	}
	p := passed{vmtest.Lab(t, config)}
	out, err := p.Command(t.Context(), "uname", "-r").Output()
	if err != nil {
		t.Fatal(err)
	}
	row := fmt.Sprintf("| %s | %s (%s) |", version, kernel, strings.TrimSpace(string(out)))
	try := func(what string, f func(*testing.T)) {
		cell := " yes |"
		if !t.Run(what, func(t *testing.T) {
			defer func() {
				if t.Skipped() {
					cell = " – |"
				}
			}()
			f(t)
		}) {
			cell = " **no** |"
		}
		row += cell
	}
	try("doctor", func(t *testing.T) {
		if _, stdout, _ := p.nested(t, "doctor"); !regexp.MustCompile(`(?m)^ok +kvm +/dev/kvm runs guests`).MatchString(stdout) {
			t.Error(stdout)
		}
	})
	try("package kvm", func(t *testing.T) { p.binary(t, filepath.Join(m.dir, "kvm.test"), "../../kvm", "PASS") })
	try("micro-guests", func(t *testing.T) { p.binary(t, filepath.Join(m.dir, "micro.test"), "../../vmm", "PASS") })
	for _, flags := range [][]string{{"-m", guestMemory}, {"-m", newestMemory, "-k", m.newest.Image, "--modules", m.newest.Modules}} {
		name := " default"
		if len(flags) > 2 {
			name = " newest"
			if !m.soak {
				row += " – | – | – |"
				break
			}
		}
		try("guest"+name, func(t *testing.T) { p.disks(t, flags, 0) })
		if bare {
			row += " – | – |"
			continue
		}
		try("passthrough"+name, func(t *testing.T) { p.disks(t, append(flags, "--device", singleNVMe+",bind"), 1) })
		try("wrap"+name, func(t *testing.T) {
			if noModule != nil {
				testenv.Missing(t, "compiler of "+kernel, noModule.Error())
			}
			defer p.Command(context.WithoutCancel(t.Context()), filepath.Join(tools, "stile"), "mdev", "unwrap", singleNVMe).Run()
			p.disks(t, append(flags, p.wrap(t, singleNVMe)...), 1)
		})
	}
	m.rows = append(m.rows, row)
}

// disks runs a guest that waits for its disks, and counts them.
func (p passed) disks(t *testing.T, flags []string, want int) {
	t.Helper()
	script := fmt.Sprintf(`modprobe -q nvme; i=0; while set -- /sys/block/nvme*; [ -e "$1" ] || shift; [ $# != %d ] && [ $i -lt 3000 ]; do i=$((i+1)); sleep 0.1; done; echo disks $#`, want)
	args := append([]string{"run"}, flags...)
	status, stdout, stderr := p.nested(t, append(args, "--", "sh", "-c", script)...)
	if status != 0 || stdout != fmt.Sprintf("disks %d\n", want) {
		t.Errorf("stile %q: status %d, %q: %s", args, status, stdout, stderr)
	}
}

// binary runs a test binary in the nested host, in its package's folder.
func (p passed) binary(t *testing.T, path, dir, want string) {
	t.Helper()
	full, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	cmd := p.Command(t.Context(), path, "-test.short", "-test.timeout=20m")
	cmd.Dir = full
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(want)) {
		t.Errorf("%v:\n%s", err, out)
	}
}
