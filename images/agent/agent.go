package agent

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// What the agent finds in its environment.
const (
	// EnvAgent is 1 in a guest.
	EnvAgent = "STILE_AGENT"
	// EnvLab is 1 in a lab's machine, which is saved before its first session.
	EnvLab = "STILE_LAB"
	// envPort is the number of the descriptor on which stage 0 hands over the channel.
	envPort = "STILE_AGENT_PORT"
)

// MaybeRun runs the agent, and never returns, when this process is PID 1 and EnvAgent
// is 1. In a process that EnvPack was given it packs, in one that was started by a name in ProgramDir it is that program, and
// doesn't return either. Otherwise it returns at once.
func MaybeRun() {
	maybeProgram()
	maybePack()
	if os.Getpid() != 1 || os.Getenv(EnvAgent) != "1" {
		return
	}
	g := &guest{}
	defer g.die("the agent returned")
	defer g.catch()
	if err := g.run(); err != nil {
		g.die(err.Error())
	}
}

// run boots the machine and serves the host until the channel ends.
func (g *guest) run() error {
	port, err := g.start()
	if err != nil {
		return err
	}
	if err := raiseFiles(); err != nil {
		g.warn("raise the limit of open files: %v", err)
	}
	os.Unsetenv(EnvAgent)
	os.Unsetenv(EnvLab)
	os.Unsetenv(envPort)
	hello := g.hello()
	if err := serve(port, g, newInitChildren(), hello); err != nil {
		return fmt.Errorf("the channel to the host ended: %w", err)
	}
	g.powerDown(false)
	return nil
}

// start returns the channel: handed over by stage 0, or found after the machine's first steps.
func (g *guest) start() (*port, error) {
	if fd, err := strconv.Atoi(os.Getenv(envPort)); err == nil {
		unix.CloseOnExec(fd)
		g.mark("port")
		return newPort(fd), nil
	}
	g.mark("init")
	g.mountBasics()
	g.mark("mounts")
	g.loadModules()
	g.mark("modules")
	g.watchNodes()
	if err := upLoopback(); err != nil {
		g.warn("bring up the loopback interface: %v", err)
	}
	if err := g.checkDrivers("/sys/bus"); err != nil {
		return nil, err
	}
	p, err := openPort(g)
	if err != nil {
		return nil, err
	}
	g.mark("port")
	if os.Getenv(EnvLab) == "1" {
		return p, stage0(p)
	}
	return p, nil
}

func (g *guest) hello() *agentproto.Hello {
	h := &agentproto.Hello{Version: agentproto.Version, Phases: g.phases, Warnings: g.warnings, Build: build(), CPUs: runtime.NumCPU()}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		h.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	return h
}

// build names the binary by its module version and revision.
func build() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	name := info.Main.Path + " " + info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			name += " " + s.Value
		}
	}
	return name
}

// Serve answers the host on conn as an ordinary process: commands run as this user,
// Setup takes an environment and neither a root nor mounts, and a power request ends the session.
// It returns when the session ends.
func Serve(conn io.ReadWriteCloser) error {
	hello := &agentproto.Hello{Version: agentproto.Version, Kernel: "none", Build: build()}
	return serve(conn, plainProcess{}, newChildren(), hello)
}

// plainProcess is the machine of Serve: none.
type plainProcess struct{}

func (plainProcess) setup(s *agentproto.Setup) error {
	if s.Root.Kind != agentproto.MountNone || len(s.Mounts) > 0 || s.Hostname != "" || len(s.Nets) > 0 {
		return fmt.Errorf("an agent that is not PID 1 mounts and names nothing")
	}
	return nil
}

func (plainProcess) powerDown(bool) {}

func (plainProcess) catch() {}
