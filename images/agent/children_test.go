package agent

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// envReaper makes the test binary a process that adopts orphans, as PID 1 does.
const envReaper = "STILE_TEST_REAPER"

func TestMain(m *testing.M) {
	if os.Getenv(envReaper) == "1" {
		if err := reapOrphans(); err != nil {
			fmt.Println("FAIL", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestInitChildren checks, in a process of its own, that orphans are reaped and that no command's status is lost.
func TestInitChildren(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envReaper+"=1")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
}

func reapOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	c := newInitChildren()
	for i := range 50 {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		// The shell leaves an orphan behind, which ends with a status of its own.
		args := []string{"sh", "-c", "sh -c 'echo $$; exit 99' & exit " + strconv.Itoa(i)}
		k, err := c.start(func() (int, error) {
			return syscall.ForkExec("/bin/sh", args, &syscall.ProcAttr{Files: []uintptr{0, w.Fd(), 2}, Sys: &syscall.SysProcAttr{Setsid: true}})
		})
		w.Close()
		if err != nil {
			return err
		}
		if status := <-k.exited; status.ExitStatus() != i {
			return fmt.Errorf("status %d, want %d", status.ExitStatus(), i)
		}
		line, err := bufio.NewReader(r).ReadString('\n')
		r.Close()
		if err != nil {
			return err
		}
		if err := awaitReaped(strings.TrimSpace(line)); err != nil {
			return err
		}
	}
	return nil
}

func awaitReaped(pid string) error {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, err := os.Stat("/proc/" + pid); err != nil {
			return nil
		}
	}
	return fmt.Errorf("the orphan %s was not reaped", pid)
}

// TestForkFails checks that a failed start leaves nothing behind.
func TestForkFails(t *testing.T) {
	c := newChildren()
	if _, err := c.start(func() (int, error) { return syscall.ForkExec("/no/such", nil, nil) }); err == nil {
		t.Error("start succeeded")
	}
	if len(c.table) != 0 {
		t.Errorf("table: %v", c.table)
	}
}

// TestSignalAfterEnd checks that a number that may be another process's by now gets no signal.
func TestSignalAfterEnd(t *testing.T) {
	c := newChildren()
	k, err := c.start(func() (int, error) {
		return syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
	})
	if err != nil {
		t.Fatal(err)
	}
	<-k.exited
	k.pid = os.Getpid() // as if reused: a signal would end this test
	k.signal(syscall.SIGKILL)
}
