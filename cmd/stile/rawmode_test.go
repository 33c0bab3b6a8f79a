package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/testenv"
)

// chatter writes to the serial port without an end: mov $0x3f8, %edx; mov $'x', %al; again: out %al, (%dx); jmp again.
func chatter() []byte { return []byte{0xba, 0xf8, 3, 0, 0, 0xb0, 'x', 0xee, 0xeb, 0xfd} }

// kernelOf makes an ELF file of code for 64-bit mode.
func kernelOf(t *testing.T, code []byte) string {
	t.Helper()
	const base, ehdr, phdr = 0x100000, 64, 56
	b := bytes.NewBuffer([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, v := range []any{
		uint32(2 | 62<<16), uint32(1), []uint64{base, ehdr, 0}, uint32(0), []uint16{ehdr, phdr, 1, 0, 0, 0}, // ET_EXEC, EM_X86_64
		[]uint32{1, 5}, []uint64{ehdr + phdr, base, base, uint64(len(code)), uint64(len(code)), 0x1000}, // PT_LOAD, R+X
	} {
		_ = binary.Write(b, binary.LittleEndian, v) // to memory
	}
	path := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(path, append(b.Bytes(), code...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRawMode watches the mode of a terminal while stile has it: it is the user's whenever stile does not run.
func TestRawMode(t *testing.T) {
	testenv.KVM(t)
	kernel := kernelOf(t, chatter())
	initramfs := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(initramfs, make([]byte, 4), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		end  func(stile *exec.Cmd, term, reader *os.File)
	}{
		{"SIGTERM", func(stile *exec.Cmd, _, _ *os.File) { stile.Process.Signal(syscall.SIGTERM) }},
		{"nobody reads", func(_ *exec.Cmd, _, reader *os.File) { reader.Close() }},
		{"stopped and continued", func(stile *exec.Cmd, term, _ *os.File) {
			stile.Process.Signal(syscall.SIGTSTP)
			awaitRaw(t, term, false)
			awaitState(t, stile.Process.Pid, "T")
			stile.Process.Signal(syscall.SIGCONT)
			awaitRaw(t, term, true)
			stile.Process.Signal(syscall.SIGSTOP) // can't be noticed
			awaitState(t, stile.Process.Pid, "T")
			setCooked(t, term) // what a shell does
			stile.Process.Signal(syscall.SIGCONT)
			awaitRaw(t, term, true)
			stile.Process.Signal(syscall.SIGINT)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			term, users, err := pty.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer term.Close()
			defer users.Close()
			reader, output, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "run", "--on", "host", "-m", "128M", "-k", kernel, "-i", initramfs)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = users, output, os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			output.Close()
			go func() { // until the end or the test's
				for buf := make([]byte, 4096); ; {
					if _, err := reader.Read(buf); err != nil {
						return
					}
				}
			}()
			kill := time.AfterFunc(processLimit, func() { cmd.Process.Kill() })
			defer kill.Stop()
			awaitRaw(t, term, true)
			tt.end(cmd, term, reader)
			_ = cmd.Wait() // its status is others' business
			if isRaw(t, term) {
				t.Errorf("the terminal is left in raw mode (%v)", cmd.ProcessState)
			}
		})
	}
}

// TestRawModeInBackground runs stile as a shell's job in the background: it is not stopped for the terminal, which it leaves alone
// until it is in the foreground, and a signal ends it.
func TestRawModeInBackground(t *testing.T) {
	testenv.KVM(t)
	kernel := kernelOf(t, chatter())
	initramfs := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(initramfs, make([]byte, 4), 0o600); err != nil {
		t.Fatal(err)
	}
	ran := filepath.Join(t.TempDir(), "ran")
	stile := filepath.Join(tools, "stile") + " run --on host -m 128M -k " + kernel + " -i " + initramfs + " >" + ran
	for name, script := range map[string]string{
		"ended":             stile + ` & while ! test -s ` + ran + `; do sleep 0.1; done; stty -a | grep -q -- -icanon && mode=raw; kill %1; wait %1; echo "status $? $mode."`,
		"in the foreground": stile + ` & while ! test -s ` + ran + `; do sleep 0.1; done; (sleep 2; kill -TERM $!) & fg %1; status=$?; stty -a | grep -q -- -icanon && mode=raw; echo "status $status $mode."`,
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "sh", "-mc", script)
			term, err := pty.Start(cmd)
			if err != nil {
				t.Fatal(err)
			}
			defer term.Close()
			defer time.AfterFunc(time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); term.Close() }).Stop()
			if name != "ended" {
				awaitRaw(t, term, true)
			}
			said := expecter{t: t, from: term}
			said.expect("status 143 .")
			_, _ = io.Copy(io.Discard, term) // ends with EIO
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

func modes(t *testing.T, term *os.File) *unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(term.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func isRaw(t *testing.T, term *os.File) bool { return modes(t, term).Lflag&unix.ICANON == 0 }

func setCooked(t *testing.T, term *os.File) {
	t.Helper()
	m := modes(t, term)
	m.Lflag |= unix.ICANON
	if err := unix.IoctlSetTermios(int(term.Fd()), unix.TCSETS, m); err != nil {
		t.Fatal(err)
	}
}

// await asks until the answer is yes.
func await(t *testing.T, what string, ask func() bool) {
	t.Helper()
	for limit := time.Now().Add(processLimit); !ask(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("waited %v for %s", processLimit, what)
		}
	}
}

func awaitRaw(t *testing.T, term *os.File, want bool) {
	t.Helper()
	await(t, "the terminal's mode", func() bool { return isRaw(t, term) == want })
}

// awaitState waits for a process's state as proc_pid_stat(5) has it.
func awaitState(t *testing.T, pid int, want string) {
	t.Helper()
	await(t, "state "+want, func() bool {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		_, state, _ := strings.Cut(string(stat), ") ")
		return err == nil && strings.HasPrefix(state, want)
	})
}
