package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/distro"
	"github.com/stile-vmm/stile/internal/doctest"
	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/vmtest"
)

// documentRun is a document's way through a shell.
type documentRun struct {
	path     string
	files    map[string]string // by name, for the document's folder
	commands []*doctest.Command
	snippets map[string]string // Go test files, by the names of their folders
}

// where names a command in messages.
func (d *documentRun) where(c *doctest.Command) string { return fmt.Sprintf("%s:%d", d.path, c.Line) }

// add takes a block over, and checks what can be checked without running it.
func (d *documentRun) add(t *testing.T, b *doctest.Block) {
	kind, err := b.Kind()
	if err != nil {
		t.Error(err)
		return
	}
	where := fmt.Sprintf("%s:%d", b.Path, b.Line)
	switch {
	case kind.Kind == doctest.Text:
	case kind.Kind == doctest.File:
		if d.files == nil {
			d.files = make(map[string]string)
		}
		text := b.Text
		if b.Language == "go" {
			d.addGo(t, b, doctest.Mark{Kind: doctest.Go})
			text, _, _ = doctest.GoFile(text)
		}
		d.files[kind.Argument] = text
	case kind.Kind == doctest.Output:
		if len(d.commands) == 0 {
			t.Errorf("%s: the output of no command", where)
			return
		}
		d.commands[len(d.commands)-1].Output = b.Text
	case b.Language == "go":
		d.addGo(t, b, kind)
	default:
		commands, err := b.Commands()
		if err != nil {
			t.Error(err)
		}
		for i := range commands {
			d.addCommand(t, &commands[i])
		}
	}
}

func (d *documentRun) addCommand(t *testing.T, c *doctest.Command) {
	checkShell(t, d.where(c), c.Text)
	for _, words := range doctest.Simple(c.Text, "stile") {
		if err := checkWords(words); err != nil {
			t.Errorf("%s: %s: %v", d.where(c), c.Text, err)
		}
	}
	d.commands = append(d.commands, c)
}

// addGo compiles a snippet. The test functions in it run if kind says where.
func (d *documentRun) addGo(t *testing.T, b *doctest.Block, kind doctest.Mark) {
	where := fmt.Sprintf("%s:%d", b.Path, b.Line)
	file, tests, err := doctest.GoFile(b.Text)
	if err == nil {
		err = compileSnippet(t, file)
	}
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return
	}
	if kind.Kind == doctest.Go || len(tests) == 0 {
		return
	}
	if d.snippets == nil {
		d.snippets = make(map[string]string)
	}
	dir := fmt.Sprintf("snippet%d", len(d.snippets))
	d.snippets[dir] = file
	d.commands = append(d.commands, &doctest.Command{
		Line: b.Line, Kind: kind.Kind, Argument: kind.Argument,
		Text: fmt.Sprintf("(cd $STILE_SNIPPETS/%s && go test -count=1 -run '^(%s)$' .)", dir, strings.Join(tests, "|")),
	})
}

// place is where commands run: "" is this machine, anything else the topology of a nested host.
func place(c *doctest.Command) string {
	if c.Kind == doctest.Lab || c.Kind == doctest.Soak {
		return c.Argument
	}
	return ""
}

// run runs the commands: those of this machine in one shell, those of each nested host in another one.
func (d *documentRun) run(t *testing.T) {
	guests := false
	t.Run("guests", func(t *testing.T) {
		needGuests(t)
		guests = true
	})
	byPlace := make(map[string][]*doctest.Command)
	var places []string
	for _, c := range d.commands {
		if c.Kind == doctest.Skip || c.Kind != doctest.Host && !guests || c.Kind == doctest.Soak && !testenv.Soak() || !d.has(t, c) {
			continue
		}
		at := place(c)
		if byPlace[at] = append(byPlace[at], c); !slices.Contains(places, at) {
			places = append(places, at)
		}
	}
	if len(places) == 0 || t.Failed() {
		return
	}
	dir, env := d.prepare(t)
	slices.Sort(places) // this machine first
	for _, at := range places {
		if at == "" {
			d.shell(t, byPlace[at], func(ctx context.Context, script string, out io.Writer) error {
				cmd := exec.CommandContext(ctx, "bash", "-c", script)
				cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), env...), out, os.Stderr
				cmd.WaitDelay = time.Second
				return cmd.Run()
			})
			continue
		}
		t.Run(at, func(t *testing.T) {
			host := vmtest.Lab(t, vmtest.LabConfig{Topology: at})
			d.shell(t, byPlace[at], func(ctx context.Context, script string, out io.Writer) error {
				cmd := host.Command(ctx, "bash", "-c", script)
				cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, out, os.Stderr
				return cmd.Run()
			})
		})
	}
}

// has reports whether the programs are here that a command needs, beside stile.
func (d *documentRun) has(t *testing.T, c *doctest.Command) bool {
	has := true
	for _, name := range c.Has(doctest.Needs) {
		t.Run("line "+fmt.Sprint(c.Line), func(t *testing.T) {
			if _, err := exec.LookPath(name); err != nil {
				has = false
				testenv.Missing(t, name, err.Error())
			}
		})
	}
	return has
}

// prepare makes the document's folder, of what testdata/documents has for it and its own files, and returns the environment.
func (d *documentRun) prepare(t *testing.T) (dir string, env []string) {
	dir, snippets, run := t.TempDir(), t.TempDir(), t.TempDir()
	top, err := filepath.Abs(checkout)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := images.Open("")
	if err != nil {
		t.Fatal(err)
	}
	env = []string{
		"PATH=" + tools + string(os.PathListSeparator) + os.Getenv("PATH"), "CGO_ENABLED=0", "CHECKOUT=" + top, "TOOLS=" + tools, "USER=root",
		"STILE_SNIPPETS=" + snippets, "STILE_RUN_DIR=" + run, images.EnvCache + "=" + cache.Dir(), "STILE_BINARY=" + filepath.Join(tools, "stile"),
	}
	if err := os.Chmod(run, 0o700); err != nil {
		t.Fatal(err)
	}
	fixture := filepath.Join("testdata/documents", strings.ReplaceAll(strings.TrimSuffix(d.path, ".md"), "/", "-"))
	if _, err := os.Stat(fixture); err == nil {
		if err := os.CopyFS(dir, os.DirFS(fixture)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range d.files {
		writeFile(t, filepath.Join(dir, name), text)
	}
	for name, text := range d.snippets {
		writeFile(t, filepath.Join(snippets, name, "snippet_test.go"), text)
	}
	if len(d.snippets) > 0 {
		module(t, top, snippets)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod.in")); err == nil {
		module(t, top, dir)
	}
	if err := makeInitramfs(filepath.Join(dir, "initramfs.cpio"), "micro"); err != nil {
		t.Fatal(err)
	}
	if testenv.Soak() && strings.Contains(shellScript(d.commands), "cat headers") {
		writeFile(t, filepath.Join(dir, "headers"), headers(t, cache))
	}
	if setup := filepath.Join(dir, "setup.sh"); exists(setup) {
		cmd := exec.Command("bash", "-e", setup)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s/setup.sh: %v: %s", fixture, err, out)
		}
	}
	return dir, env
}

// headers returns the folder with the headers of the kernel that docs/guide.md builds a module for.
func headers(t *testing.T, cache *images.Cache) string {
	t.Helper()
	say := func(text string) { t.Log(text) }
	kernel, err := distro.Fetch(t.Context(), cache, "6.12", say)
	if err != nil {
		testenv.Missing(t, "apt", err.Error())
	}
	dir, err := distro.FetchHeaders(t.Context(), cache, kernel.Release, say)
	if err != nil {
		testenv.Missing(t, "apt", err.Error())
	}
	return dir
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// module makes dir a module that uses this one, as the examples do.
func module(t *testing.T, top, dir string) {
	t.Helper()
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(top, "examples", name))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name), string(text))
	}
	tool(t, 0, "go", "-C", dir, "mod", "edit", "-replace=github.com/stile-vmm/stile="+top)
}

// documentLimit ends a shell that hangs.
const documentLimit = 20 * time.Minute

// report precedes each command's number, status and output in what a shell prints.
const report = "@@ "

// shell runs commands in one shell by start, and checks what each has printed and its status.
func (d *documentRun) shell(t *testing.T, commands []*doctest.Command, start func(context.Context, string, io.Writer) error) {
	limit := documentLimit
	if testenv.Soak() {
		limit *= 4
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	pr, pw := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := start(ctx, shellScript(commands), pw)
		pw.Close()
		ended <- err
	}()
	next := 0
	lines := bufio.NewReader(pr)
	for began := time.Now(); ; began = time.Now() {
		line, err := lines.ReadString('\n')
		if err != nil {
			break
		}
		var n, status int
		var encoded string
		if _, err := fmt.Sscanf(line, report+"%d %d %s", &n, &status, &encoded); err != nil && n+1 > len(commands) || !strings.HasPrefix(line, report) || n != next {
			t.Logf("%s", line)
			continue
		}
		output, _ := base64.StdEncoding.DecodeString(encoded)
		d.check(t, commands[n], status, string(output), time.Since(began))
		next++
	}
	if err := <-ended; next < len(commands) {
		t.Errorf("%s: %s: did not end: %v, %v", d.where(commands[next]), commands[next].Text, err, context.Cause(ctx))
	}
}

// check compares what a command did with what its document says.
func (d *documentRun) check(t *testing.T, c *doctest.Command, status int, output string, took time.Duration) {
	t.Run(fmt.Sprintf("line %d", c.Line), func(t *testing.T) {
		t.Logf("%s: %s: %v", d.where(c), c.Text, took.Round(time.Millisecond))
		if err := verdict(c, status, output); err != nil {
			t.Error(err)
		}
	})
}

// verdict returns what is not as the document says.
func verdict(c *doctest.Command, status int, output string) error {
	want := "0"
	if said := c.Has(doctest.Status); len(said) > 0 {
		want = said[0]
	}
	if fmt.Sprint(status) != want {
		return fmt.Errorf("exit status %d, want %s: %s", status, want, output)
	}
	if got := doctest.Without("stile", c.Output, output); c.Output != "" && !doctest.Match(c.Output, got) {
		return fmt.Errorf("it prints\n%s\nand not\n%s", got, c.Output)
	}
	return nil
}

// shellScript runs commands in this order in one shell. What each prints is reported when it has ended; background commands go on, and
// end with the shell.
func shellScript(commands []*doctest.Command) string {
	var s bytes.Buffer
	s.WriteString("set -o pipefail; out=$(mktemp -d) || exit; exec 7>&1\ntrap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf \"$out\"' EXIT\n")
	for i, c := range commands {
		text := c.Text
		var before []string
		for _, m := range c.More {
			switch m.Kind {
			case doctest.Before:
				before = append(before, m.Argument)
			case doctest.Until:
				before = append(before, fmt.Sprintf("for try in $(seq 600); do (%s) && break; sleep 0.2; done", m.Argument))
			case doctest.Let:
				word, command, _ := strings.Cut(m.Argument, "=")
				before = append(before, fmt.Sprintf("DOCTEST_%s=$(%s)", word, command))
				text = regexp.MustCompile(`\b`+regexp.QuoteMeta(word)+`\b`).ReplaceAllLiteralString(text, "${DOCTEST_"+word+"}")
			}
		}
		ok := strings.Join(append(before, "true"), " && ")
		fmt.Fprintf(&s, "{ { %s; } >$out/before 2>&1 && {\n%s\n} || { s=$?; test ! -s $out/before || cat $out/before; (exit $s); } } >$out/%d 2>&1 </dev/null 7>&-\n", ok, text, i)
		fmt.Fprintf(&s, "s=$?; printf '%s%d %%d %%s\\n' $s \"$(base64 -w0 <$out/%d)\" >&7\n", report, i, i)
	}
	return s.String()
}
