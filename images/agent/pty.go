package agent

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// openPTY opens a new terminal; see pts(4).
func openPTY(size agentproto.Winsize) (master, slave *os.File, err error) {
	// Non-blocking, so that a read deadline works.
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, fmt.Errorf("find the terminal's number: %w", err)
	}
	if slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	setSize(master, size)
	return master, slave, nil
}

// setSize sets the terminal's size, which sends SIGWINCH. A terminal that is gone is left alone.
func setSize(master *os.File, size agentproto.Winsize) {
	control(master, func(fd int) {
		unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
	})
}

// typeInto types the host's bytes into the terminal. At their end it types the terminal's end-of-file
// character, when the program in front reads lines.
func typeInto(master *os.File, r io.Reader) {
	if _, err := io.Copy(struct{ io.Writer }{master}, r); err != nil {
		return
	}
	control(master, func(fd int) {
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil && t.Lflag&unix.ICANON != 0 {
			unix.Write(fd, []byte{t.Cc[unix.VEOF]})
		}
	})
}

// control calls f with the file's descriptor, which stays open meanwhile.
func control(file *os.File, f func(fd int)) {
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) { f(int(fd)) })
}
