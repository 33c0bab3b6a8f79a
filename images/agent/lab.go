package agent

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// stage0Binary is where stage 0 puts the binary it gets: a file system in memory.
const stage0Binary = "/run/stile-agent"

// stage0 offers the machine to be saved, and returns to go on with this binary, or
// doesn't return because another has taken over.
func stage0(p *port) error {
	self, err := agentproto.HashFile("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("stage 0: %w", err)
	}
	if err := savePCI("/", savedPCI); err != nil {
		return fmt.Errorf("stage 0: %w", err)
	}
	run, err := receive(p, self, stage0Binary, func(seed agentproto.Seed) error { return reseed(kernelRandom, seed) })
	if err != nil {
		return fmt.Errorf("stage 0: %w", err)
	}
	if !run {
		return nil
	}
	return fmt.Errorf("stage 0: %w", execKeeping(p, stage0Binary))
}

// receive says agentproto.LabLine, calls reseed when the machine was resumed, and writes the binary that comes to path.
// It returns false when this agent, whose hash is self, is the one to run.
func receive(rw io.ReadWriter, self, path string, reseed func(agentproto.Seed) error) (run bool, err error) {
	if _, err := io.WriteString(rw, agentproto.LabLine(self)); err != nil {
		return false, err
	}
	line, err := agentproto.ReadRunLine(rw)
	if err != nil {
		return false, err
	}
	if err := reseed(line.Seed); err != nil {
		return false, err
	}
	if line.Size == 0 {
		if line.Hash != self {
			return false, fmt.Errorf("the host wants the agent %s and sends none; this is %s", line.Hash, self)
		}
		return false, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o700)
	if err != nil {
		return false, err
	}
	defer f.Close()
	checksum := agentproto.NewChecksum()
	if _, err := io.CopyN(io.MultiWriter(f, checksum), rw, line.Size); err != nil {
		return false, fmt.Errorf("receive %d bytes: %w", line.Size, err)
	}
	if got := checksum.Sum64(); got != line.Checksum {
		return false, fmt.Errorf("the binary received has the checksum %016x, announced was %016x", got, line.Checksum)
	}
	return true, f.Close()
}

// execKeeping replaces this process by path, which inherits the open channel: closing it in between
// would make the driver drop what the host has already sent.
func execKeeping(p *port, path string) error {
	raw, err := p.SyscallConn()
	if err != nil {
		return err
	}
	var execErr error
	err = raw.Control(func(fd uintptr) {
		if _, execErr = unix.FcntlInt(fd, unix.F_SETFD, 0); execErr != nil {
			return
		}
		env := append(os.Environ(), envPort+"="+strconv.Itoa(int(fd)))
		execErr = unix.Exec(path, []string{path}, env)
	})
	if err != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", path, execErr)
}
