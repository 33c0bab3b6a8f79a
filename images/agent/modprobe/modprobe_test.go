package modprobe

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images/kmod"
	"github.com/stile-vmm/stile/images/kmod/kmodtest"
	"github.com/stile-vmm/stile/internal/testenv"
)

const release = "6.12-test"

// fakeKernel notes what it is asked for, and keeps /sys/module.
type fakeKernel struct {
	t    *testing.T
	root string
	log  []string
	fail map[string]error // by module
}

func (k *fakeKernel) load(path, params string, flags int) error {
	name := kmod.Name(path)
	k.log = append(k.log, strings.TrimSpace(fmt.Sprintf("load %s %s", filepath.Base(path), params)))
	if err := k.fail[name]; err != nil {
		return err
	}
	kmodtest.Write(k.t, filepath.Join(k.root, "sys/module", name, "initstate"), []byte("live\n"))
	kmodtest.Write(k.t, filepath.Join(k.root, "sys/module", name, "refcnt"), []byte("0\n"))
	return nil
}

func (k *fakeKernel) unload(name string, _ int) error {
	k.log = append(k.log, "unload "+name)
	if _, err := os.Stat(filepath.Join(k.root, "sys/module", name)); err != nil {
		return unix.ENOENT
	}
	return os.RemoveAll(filepath.Join(k.root, "sys/module", name))
}

func (k *fakeKernel) shell(command string, environ []string) error {
	k.log = append(k.log, "shell "+command+" "+environment(environ, "MODPROBE_MODULE"))
	return nil
}

// machine has the modules of kmodtest.Tree and a configuration.
type machine struct {
	*system
	kernel         *fakeKernel
	stdout, stderr bytes.Buffer
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "lib/modules", release)
	kmodtest.Tree(t, dir)
	if err := kmod.WriteIndexes(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		"etc/modprobe.d/a.conf":     "# comment\noptions tun debug=1\nblacklist crc32c-y\nalias my-net tun\ninstall d /bin/echo $CMDLINE_OPTS\n",
		"lib/modprobe.d/a.conf":     "options tun debug=2\n", // is another file of that name
		"lib/modprobe.d/b.conf":     "options tun \\\n color=red\nremove not_listed /bin/false\nsoftdep tun post: not-listed nosuch\n",
		"lib/modprobe.d/no.conf~":   "blacklist tun\n",
		"proc/cmdline":              "quiet xfs.words=\"a b\" modprobe.blacklist=replaced -- tun.x=1\n",
		"proc/modules":              "tun 69632 2 vhost_net, Live 0x0\nxfs 4096 0 - Live 0x0\n",
		"sys/module/8250_base/note": "",
	} {
		kmodtest.Write(t, filepath.Join(root, path), []byte(text))
	}
	m := &machine{kernel: &fakeKernel{t: t, root: root}}
	m.system = &system{root: root, release: release, kernel: m.kernel, stdout: &m.stdout, stderr: &m.stderr, environ: []string{"A=b"}}
	return m
}

func TestModprobe(t *testing.T) {
	dir := "ROOT/lib/modules/" + release + "/"
	for name, tt := range map[string]struct {
		setup, call    string
		status         int
		log            []string
		stdout, stderr string // ROOT stands for the root
	}{
		"options, softdep":            {call: "modprobe tun x=1", log: []string{"load tun.ko debug=1 color=red x=1", "load not-listed.ko"}},
		"alias of config":             {call: "modprobe my-net", log: []string{"load tun.ko debug=1 color=red", "load not-listed.ko"}},
		"the kernel asks":             {call: "modprobe -q -- char-major-10-200", log: []string{"load tun.ko debug=1 color=red", "load not-listed.ko"}},
		"soft before hard":            {call: "modprobe xfs", log: []string{"load libcrc32c.ko", "load crc32c-y.ko", "load crc32c-x.ko", "load xfs.ko words=\"a b\""}},
		"what it needs, compressed":   {call: "modprobe -i a", log: []string{"shell /bin/echo  d", "load b.ko.gz", "load c.ko.zst", "load a.ko"}},
		"install command":             {call: "modprobe d x=y", log: []string{"shell /bin/echo x=y d"}},
		"blacklisted alias":           {call: "modprobe new"},
		"name on the blacklist":       {call: "modprobe -i replaced", log: []string{"shell /bin/echo  d", "load replaced.ko"}},
		"name, with -b":               {call: "modprobe -b replaced"},
		"alias, one on the blacklist": {call: "modprobe crypto-crc32c", log: []string{"load crc32c-x.ko"}},
		"twice":                       {setup: "modprobe tun", call: "modprobe tun"},
		"twice, --first-time":         {setup: "modprobe tun", call: "modprobe --first-time tun", status: 1, stderr: "modprobe: FATAL: could not insert 'tun': Module already in kernel\n"},
		"built in":                    {call: "modprobe fuse"},
		"built in, by alias":          {call: "modprobe -v fs-fuse", stdout: "builtin fuse\n"},
		"missing":                     {call: "modprobe nosuch", status: 1, stderr: "modprobe: FATAL: Module nosuch not found in directory " + dir[:len(dir)-1] + "\n"},
		"missing, quiet":              {call: "modprobe -q nosuch", status: 1},
		"several":                     {call: "modprobe -ai d nosuch libcrc32c", status: 1, log: []string{"load d.ko", "load libcrc32c.ko"}, stderr: "modprobe: WARNING: Module nosuch not found in directory " + dir[:len(dir)-1] + "\n"},
		"refused":                     {setup: "fail xfs", call: "modprobe -i xfs", status: 1, log: []string{"load libcrc32c.ko", "load crc32c-y.ko", "load crc32c-x.ko", "load xfs.ko words=\"a b\""}, stderr: "modprobe: FATAL: could not insert 'xfs': exec format error\n"},
		"soft one refused":            {setup: "fail crc32c_x", call: "modprobe xfs", log: []string{"load libcrc32c.ko", "load crc32c-y.ko", "load crc32c-x.ko", "load xfs.ko words=\"a b\""}},
		"hard one refused":            {setup: "fail libcrc32c", call: "modprobe -q xfs", status: 1, log: []string{"load libcrc32c.ko"}},
		"resolve":                     {call: "modprobe -R crypto-crc32c", stdout: "crc32c_y\ncrc32c_x\n"},
		"show-depends":                {call: "modprobe --show-depends a", stdout: "install /bin/echo $CMDLINE_OPTS \ninsmod " + dir + "kernel/drivers/b.ko.gz \ninsmod " + dir + "kernel/drivers/c.ko.zst \ninsmod " + dir + "kernel/drivers/a.ko \n"},
		"dry run":                     {call: "modprobe -nv tun", stdout: "insmod " + dir + "kernel/drivers/net/tun.ko debug=1 color=red\ninsmod " + dir + "kernel/drivers/not-listed.ko \n"},
		"another release":             {call: "modprobe -S 5.5 tun", status: 1, stderr: "modprobe: FATAL: Module tun not found in directory ROOT/lib/modules/5.5\n"},
		"remove":                      {setup: "modprobe -ai d a", call: "modprobe -r a", log: []string{"unload a", "unload c", "unload b", "unload d"}},
		"remove what is not there":    {call: "modprobe -r tun"},
		"remove in use":               {setup: "use tun", call: "modprobe -r tun", status: 1, stderr: "modprobe: FATAL: Module tun is in use.\n"},
		"remove what is built in":     {call: "modprobe -r 8250-base", status: 1, stderr: "modprobe: FATAL: Module 8250_base is builtin.\n"},
		"remove command":              {call: "modprobe -r not-listed", log: []string{"shell /bin/false not_listed"}},
		"no module":                   {call: "modprobe -v", status: 1, stderr: "modprobe: missing parameters; see modprobe --help\n"},
		"unknown option":              {call: "modprobe --foo tun", status: 1, stderr: "modprobe: unknown option --foo; see modprobe --help\n"},
		"rmmod":                       {setup: "modprobe -i d", call: "rmmod d", log: []string{"unload d"}},
		"rmmod nothing":               {call: "rmmod d", status: 1, log: []string{"unload d"}, stderr: "rmmod: ERROR: could not remove module d: Module is not currently loaded\n"},
		"insmod":                      {call: "insmod x/hello.ko name=stile", log: []string{"load hello.ko name=stile"}},
		"lsmod":                       {call: "lsmod", stdout: "Module                  Size  Used by\ntun                    69632  2 vhost_net\nxfs                     4096  0\n"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			setup := strings.Fields(tt.setup)
			switch {
			case len(setup) == 0:
			case setup[0] == "fail":
				m.kernel.fail = map[string]error{setup[1]: unix.ENOEXEC}
			case setup[0] == "use":
				kmodtest.Write(t, m.path("sys/module", setup[1], "initstate"), []byte("live\n"))
				kmodtest.Write(t, m.path("sys/module", setup[1], "refcnt"), []byte("1\n"))
			default:
				m.run(setup[0], setup[1:])
			}
			m.kernel.log = nil
			call := strings.Fields(tt.call)
			status := m.run(call[0], call[1:])
			if status != tt.status {
				t.Errorf("status %d, want %d", status, tt.status)
			}
			if diff := cmp.Diff(tt.log, m.kernel.log); diff != "" {
				t.Error(diff)
			}
			for _, got := range []struct{ got, want string }{{m.stdout.String(), tt.stdout}, {m.stderr.String(), tt.stderr}} {
				if diff := cmp.Diff(got.want, strings.ReplaceAll(got.got, m.root, "ROOT")); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

// TestLikeKmod compares with what kmod's own modprobe says it would do, for all modules and aliases.
func TestLikeKmod(t *testing.T) {
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	theirs, err := exec.LookPath("modprobe")
	if err != nil {
		testenv.Missing(t, "kmod", err.Error())
	}
	m := newMachine(t)
	config := filepath.Join(m.root, "etc/modprobe.d")
	kmodtest.Write(t, filepath.Join(config, "b.conf"), []byte("softdep tun post: not-listed nosuch\noptions xfs words=\"a b\"\n"))
	if err := os.WriteFile(filepath.Join(m.root, "proc/cmdline"), nil, 0o644); err != nil { // kmod has the host's
		t.Fatal(err)
	}
	for _, call := range []string{
		"--show-depends tun", "--show-depends my-net", "--show-depends xfs", "--show-depends fs-xfs", "--show-depends a", "--show-depends d x=y", "--show-depends new",
		"--show-depends fuse", "--show-depends crypto-crc32c", "--show-depends -b crc32c-y", "-R crypto-crc32c", "-R char-major-10-200", "-R fs-fuse", "-R symbol:b2",
		"-R pci:v00008086d00001234sv1sd2bc02sc20i00", "-R acpix:PNP-07:y", "-R nosuch", "-D -i a", "-aD xfs tun",
	} {
		args := append([]string{"-C", config}, strings.Fields(call)...)
		m.stdout.Reset()
		status := m.run("modprobe", args)
		run := exec.Command(theirs, append([]string{"-d", m.root, "-S", release}, args...)...)
		text, _ := run.Output()
		ours := strings.ReplaceAll(m.stdout.String(), " \n", "\n")
		if diff := cmp.Diff(strings.ReplaceAll(string(text), " \n", "\n"), ours); diff != "" || status != run.ProcessState.ExitCode() {
			t.Errorf("modprobe %s: status %d, kmod's %d; %s", call, status, run.ProcessState.ExitCode(), diff)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("options a b=c\nsoftdep a pre: b post: c\nblacklist d\ninstall e f\nalias g* h", "a.b=\"c d\" modprobe.blacklist=e")
	f.Fuzz(func(t *testing.T, text, cmdline string) {
		c := &config{}
		c.parse(text)
		c.parseCmdline(cmdline)
		for _, o := range c.options {
			if o.name == "" {
				t.Errorf("options without a module: %q", o)
			}
		}
		c.softdepsOf("a")
		c.optionsOf(module{name: "a", alias: "b"})
	})
}

func FuzzOptions(f *testing.F) {
	f.Add("-qn -C x --set-version=5 -- a b=c")
	f.Fuzz(func(t *testing.T, line string) {
		if o, err := parseOptions(strings.Fields(line)); err == nil && o == nil {
			t.Error("neither options nor an error")
		}
	})
}
