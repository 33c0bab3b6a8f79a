package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creack/pty"

	"github.com/stile-vmm/stile/lab"
)

// TestDoctor: each lack of this host has its remedy, and states have colours on a terminal.
func TestDoctor(t *testing.T) {
	names := make(map[string]bool)
	for _, f := range examine(t.Context()) {
		names[f.Name] = true
		if f.Detail == "" || f.State != good && f.Remedy == "" {
			t.Errorf("%+v: no detail, or no remedy", f)
		}
	}
	for _, name := range []string{"host", "kvm", "nesting", "qemu", "kernel", "iommu", "interrupts", "vfio", "memlock", "huge pages", "go", "cache"} {
		if !names[name] {
			t.Errorf("%s was not looked at", name)
		}
	}
	for _, env := range []string{"NO_COLOR=", "NO_COLOR=1"} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "doctor")
		cmd.Env = append(os.Environ(), env)
		term, err := pty.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		out, _ := io.ReadAll(term) // ends with EIO
		term.Close()
		_ = cmd.Wait() // its status is this host's
		if coloured := strings.Contains(string(out), "\x1b[3"); coloured != (env == "NO_COLOR=") || !strings.Contains(string(out), "memlock") {
			t.Errorf("with %s: %q", env, out)
		}
	}
}

func TestExplain(t *testing.T) {
	var f finding
	f.explain(&lab.NoQEMUError{Remedy: "apt-get install qemu-system-x86", Err: errors.New("there is none")})
	if !strings.HasSuffix(f.Detail, "there is none") || !strings.HasPrefix(f.Remedy, "run `apt-get install qemu-system-x86`") {
		t.Errorf("%+v", f)
	}
}
