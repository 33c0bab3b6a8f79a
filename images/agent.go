package images

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/stile-vmm/stile/internal/child"
)

// Agent is a program that can be a guest's /init, and the files that it needs.
type Agent struct {
	// Path is the program. It is static unless there are Libraries.
	Path string
	// Libraries are a dynamic program's loader and libraries, at their own paths.
	Libraries []string
}

// AgentOptions says where an agent may come from.
type AgentOptions struct {
	// Alone says that the agent has to be nothing else, so that a smaller program than this one will do.
	Alone bool
	// Self says that the running program calls agent.MaybeRun first in main, so that it can be the agent.
	Self bool
}

const (
	// self is the running program, even after its file was replaced.
	self = "/proc/self/exe"
	// maxSelf bounds the program that is copied into every guest, in bytes.
	maxSelf = 64 << 20
	// agentPackage is the agent on its own.
	agentPackage = "github.com/stile-vmm/stile/images/agent/cmd/" + agentName
	agentName    = "stile-agent"
)

// agentHash is the SHA-256 of the agent on its own that was built along with this program, in hexadecimal
// digits. The linker sets it; "" means that none was built.
var agentHash = ""

// Agent finds an agent, in this order:
//
//   - The agent on its own that was built along with this program and installed beside it, where
//     opts.Alone allows. A guest reads, and unpacks, a quarter of the bytes of stile's.
//   - The running program, if it may be one and is static: nothing to build, and the two ends
//     of the channel are the same release. It costs a few MiB of copying more than a small agent.
//   - The agent on its own, built with the Go tool. The Go tool's own cache notices
//     every change to its source, so it is asked each time (a quarter of a second).
//   - The running program with its loader and libraries: it may be an agent, but it is dynamic, and there is no Go tool.
func (c *Cache) Agent(ctx context.Context, opts AgentOptions) (*Agent, error) {
	if opts.Alone && agentHash != "" {
		if path := c.besideMe(ctx, agentHash); path != "" {
			return &Agent{Path: path}, nil
		}
	}
	var reasons []error
	if opts.Self {
		err := checkStatic(self)
		if err == nil {
			return &Agent{Path: self}, nil
		}
		reasons = append(reasons, fmt.Errorf("this program: %w", err))
	}
	path, err := c.buildAgent(ctx)
	if err == nil {
		return &Agent{Path: path}, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	reasons = append(reasons, err)
	if opts.Self {
		a, err := dynamicAgent(ctx, self)
		if err == nil {
			return a, nil
		}
		reasons = append(reasons, err)
	}
	return nil, fmt.Errorf("no program can be the guest's /init (build this one with CGO_ENABLED=0, or put the Go tool into PATH): %w",
		errors.Join(reasons...))
}

// besideMe returns the path of the agent with that hash beside the running program, or in lib/stile beside the
// folder of that; "" if neither has it.
func (c *Cache) besideMe(ctx context.Context, hash string) string {
	program, err := os.Executable()
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(program); err == nil {
		program = real
	}
	dir := filepath.Dir(program)
	return c.agentIn(ctx, hash, dir, filepath.Join(filepath.Dir(dir), "lib", "stile"))
}

// agentIn looks for the agent with that hash in dirs. Another one, of another release, does not count.
func (c *Cache) agentIn(ctx context.Context, hash string, dirs ...string) string {
	for _, dir := range dirs {
		path := filepath.Join(dir, agentName)
		if found, err := c.HashFile(ctx, path); err == nil && found == hash {
			return path
		}
	}
	return ""
}

// checkStatic returns nil for a static program that is small enough.
func checkStatic(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() > maxSelf {
		return fmt.Errorf("%d bytes are too big to be copied into each guest", info.Size())
	}
	interp, err := interpreter(path)
	if err != nil {
		return err
	}
	if interp != "" {
		return fmt.Errorf("not static: it needs %s", interp)
	}
	return nil
}

// interpreter returns the dynamic loader that a program names, "" for a static one.
func interpreter(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		const maxPath = 4096
		name, err := io.ReadAll(io.LimitReader(p.Open(), maxPath))
		return strings.TrimRight(string(name), "\x00"), err
	}
	return "", nil
}

// buildAgent builds the agent on its own, in the context of the module in the working folder.
func (c *Cache) buildAgent(ctx context.Context) (string, error) {
	tool, err := goTool()
	if err != nil {
		return "", err
	}
	unlock, err := c.lock(ctx, KindAgent, "build")
	if err != nil {
		return "", err
	}
	defer unlock()
	// To the same file each time: the Go tool doesn't link again what is up to date.
	out := filepath.Join(c.dir, string(KindAgent), ".build")
	cmd := exec.CommandContext(ctx, tool, "build", "-race=false", "-cover=false", "-buildvcs=false", "-trimpath",
		"-ldflags=-s -w", "-o", out, agentPackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if output, err := child.CombinedOutput(cmd); err != nil {
		return "", fmt.Errorf("build the agent with the Go tool: %w: %s", err, bytes.TrimSpace(output))
	}
	hash, err := c.HashFile(ctx, out)
	if err != nil {
		return "", err
	}
	return c.File(ctx, KindAgent, hash, func(w *os.File) error {
		if err := w.Chmod(0o700); err != nil {
			return err
		}
		return copyFile(w, out)
	})
}

// goTool finds the Go tool.
func goTool() (string, error) {
	if path, err := exec.LookPath("go"); err == nil {
		return path, nil
	}
	for _, root := range []string{os.Getenv("GOROOT"), "/usr/local/go", "/usr/lib/go"} {
		path := filepath.Join(root, "bin", "go")
		if root != "" && child.Run(exec.Command(path, "version")) == nil {
			return path, nil
		}
	}
	return "", errors.New("there is no Go tool in PATH")
}

// dynamicAgent finds what a dynamic program needs, by asking its own loader.
func dynamicAgent(ctx context.Context, path string) (*Agent, error) {
	loader, err := interpreter(path)
	if err != nil || loader == "" {
		return nil, errors.Join(err, fmt.Errorf("%s has no loader", path))
	}
	program, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	output, err := child.Output(exec.CommandContext(ctx, loader, "--list", program))
	if err != nil {
		return nil, fmt.Errorf("ask %s for the libraries of %s: %w", loader, program, err)
	}
	libraries, err := parseLoaderList(string(output))
	if err != nil {
		return nil, err
	}
	return &Agent{Path: path, Libraries: append([]string{loader}, libraries...)}, nil
}

// parseLoaderList reads lines like "libc.so.6 => /lib/libc.so.6 (0x7f…)". The loader's own line and the vDSO's have no arrow.
func parseLoaderList(output string) ([]string, error) {
	var paths []string
	for line := range strings.Lines(output) {
		name, found, ok := strings.Cut(strings.TrimSpace(line), " => ")
		if !ok {
			continue
		}
		path, _, _ := strings.Cut(found, " (")
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("library %s: %s", name, found)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func copyFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
