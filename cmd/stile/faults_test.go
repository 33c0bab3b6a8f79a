package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/vmm"
)

// debianModule builds the module whose source is the folder of that name in testdata, for Debian's kernel 6.1, and returns its path.
func debianModule(t *testing.T, name string) string {
	t.Helper()
	cache, kernel := debianKernel(t)
	headers, err := distro.FetchHeaders(t.Context(), cache, kernel.Release, func(what string) { t.Log(what) })
	if err != nil {
		testenv.Missing(t, "kernel-headers", err.Error())
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", name))); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "make", "-C", headers, "M="+dir, "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules")
	build.Env = append(os.Environ(), "MAKEFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(dir, name+".ko")
}

// runFaults runs a command in a guest with Debian's kernel 6.1.
func runFaults(t *testing.T, flags []string, command string) (status int, stderr string, r guest.Report) {
	t.Helper()
	report := filepath.Join(t.TempDir(), "report")
	var errors bytes.Buffer
	args := append([]string{"run", "-k", "debian:6.1", "--timeout", processLimit.String(), "--json", report}, flags...)
	cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), append(args, "--", "sh", "-c", command)...)
	cmd.Stderr = &errors
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	status = exitCode(t, cmd)
	return status, errors.String(), readReport(t, report)
}

// TestFaults has a module, built here for Debian's kernel, bring a guest's kernel to report faults of itself.
func TestFaults(t *testing.T) {
	needGuests(t)
	module := debianModule(t, "faults")
	t.Run("oops ends the command", func(t *testing.T) {
		status, stderr, r := runFaults(t, nil, "exec insmod "+module+" what=oops")
		if status != guest.ExitDied || r.Status != status || r.Reason != "died" || r.Guest == nil || r.Guest.Reason != vmm.Oops {
			t.Errorf("exit status %d, report %+v, guest %+v", status, r, r.Guest)
		}
		for _, want := range []string{"reported a fault (oops): BUG: kernel NULL pointer dereference", "RIP: 0010:faults_init+"} {
			if !strings.Contains(stderr, want) {
				t.Errorf("no %q in\n%s", want, stderr)
			}
		}
		if len(r.Faults) != 1 || r.Faults[0].Kind != "oops" || r.Faults[0].Time == 0 {
			t.Errorf("the report lists %+v", r.Faults)
		}
	})
	t.Run("survived", func(t *testing.T) {
		const all = "echo 1 >/proc/sys/kernel/hung_task_timeout_secs; for what in warn refcount atomic hung oops; do insmod $0 what=$what; done; exit 3"
		status, stderr, r := runFaults(t, []string{"--on-oops", "warn,ubsan=ignore"}, strings.ReplaceAll(all, "$0", module))
		if status != 3 || r.Reason != "exit" {
			t.Errorf("exit status %d, report %+v", status, r)
		}
		var kinds []string
		for _, f := range r.Faults {
			kinds = append(kinds, string(f.Kind))
			if !strings.Contains(stderr, "("+string(f.Kind)+") and goes on: "+f.Text) {
				t.Errorf("no line on %+v", f)
			}
		}
		for _, want := range []string{"warning", "atomic", "hung-task", "oops"} {
			if !slices.Contains(kinds, want) {
				t.Errorf("%s is not among %q:\n%s", want, kinds, stderr)
			}
		}
		if len(r.Faults) == 0 || !slices.Contains(r.Faults[0].Lines, "a warning on demand") {
			t.Errorf("the first is %+v", r.Faults)
		}
	})
	t.Run("warning that ends it", func(t *testing.T) {
		status, stderr, r := runFaults(t, []string{"--on-oops", "warning=stop"}, "insmod "+module)
		if status != guest.ExitDied || r.Guest == nil || r.Guest.Reason != "warning" || !strings.Contains(stderr, "reported a fault (warning): WARNING: ") {
			t.Errorf("exit status %d, report %+v: %s", status, r, stderr)
		}
	})
}
