package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/stile-vmm/stile/internal/child"
	"github.com/stile-vmm/stile/internal/trust"
)

// u-root's userland is built by u-root's own command, from its own module with the
// dependencies that module pins, so that nothing depends on the module that uses stile.
const (
	uRootModule  = "github.com/u-root/u-root"
	uRootVersion = "v0.16.0"
	// uRootFormat changes when the same version is built in another way.
	uRootFormat = "1"
)

// URoot returns the path of a newc archive with u-root's core commands as one program
// in /bbin. It is built once with the Go tool, which takes a minute or two and may have
// to download modules.
func (c *Cache) URoot(ctx context.Context) (string, error) {
	path, err := c.File(ctx, KindUserland, "u-root-"+uRootVersion+"-"+uRootFormat, func(w *os.File) error {
		return buildURoot(ctx, w)
	})
	if err != nil {
		return "", fmt.Errorf("build the u-root userland (its first use needs the Go tool and a network): %w", err)
	}
	return path, nil
}

func buildURoot(ctx context.Context, w *os.File) error {
	tool, err := goTool()
	if err != nil {
		return err
	}
	dir, err := downloadModule(ctx, tool, uRootModule+"@"+uRootVersion)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(trust.TempDir(), "stile-u-root-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	// The builder runs the Go tool too, and looks for it in GOROOT.
	root, err := child.Output(exec.CommandContext(ctx, tool, "env", "GOROOT"))
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	env := append(buildEnv(), "GOROOT="+string(bytes.TrimSpace(root)))
	builder, archive := filepath.Join(tmp, "u-root"), filepath.Join(tmp, "core.cpio")
	if err := runIn(ctx, dir, env, tool, "build", "-trimpath", "-o", builder, "."); err != nil {
		return err
	}
	commands, err := filepath.Glob(filepath.Join(dir, "cmds", "core", "*"))
	if err != nil {
		return err
	}
	for i, command := range commands {
		commands[i] = "./" + filepath.Join("cmds", "core", filepath.Base(command))
	}
	args := append([]string{"-o", archive, "-defaultsh=gosh", "-initcmd=", "-tmp-dir=" + tmp}, commands...)
	if err := runIn(ctx, dir, env, builder, args...); err != nil {
		return err
	}
	return copyFile(w, archive)
}

// downloadModule returns a module's folder in the Go module cache.
func downloadModule(ctx context.Context, tool, module string) (string, error) {
	cmd := exec.CommandContext(ctx, tool, "mod", "download", "-json", module)
	cmd.Env = buildEnv()
	output, err := child.Output(cmd)
	var result struct{ Dir, Error string }
	if jsonErr := json.Unmarshal(output, &result); jsonErr == nil && result.Error != "" {
		return "", errors.New(result.Error)
	}
	if err != nil {
		return "", fmt.Errorf("go mod download %s: %w", module, err)
	}
	return result.Dir, nil
}

func runIn(ctx context.Context, dir string, env []string, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = env
	output, err := child.CombinedOutput(cmd)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(program), err, lastBytes(bytes.TrimSpace(output)))
	}
	return nil
}

// buildEnv is for builds of another module: settings for the user's own don't apply.
func buildEnv() []string {
	return append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=", "GOWORK=off")
}

// lastBytes returns the end of a long output, where the reason is.
func lastBytes(output []byte) []byte {
	const enough = 2000
	return output[max(0, len(output)-enough):]
}
