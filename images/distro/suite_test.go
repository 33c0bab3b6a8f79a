package distro

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const debianTargets = "Debian\tDebian-Security\tmain\thttp://security.invalid/\n$(ORIGIN)\t$(LABEL)\tmain\thttp://other.invalid/\n" +
	"Debian\tDebian\tmain\thttp://archive.invalid/debian/\n"

// TestSuite fetches a kernel, its headers and a source from a suite that the system takes no packages from, without
// privileges and without a change of the system's lists.
func TestSuite(t *testing.T) {
	const release = "7.2.13+deb14-amd64"
	f, c := newFakeApt(t), openCache(t)
	f.write("targets", []byte(debianTargets))
	addSplit(t, f, "suite/next", release, "7.2.13-1")
	f.add("suite/next", "linux-headers-"+release, "7.2.13-1", "",
		makeDeb(t, ".xz", entry{name: "./usr/src/linux-headers-" + release + "/Makefile", text: "all:\n"}))
	f.add("suite/next", "linux-source-7.2", "7.2.13-1", "", makeDeb(t, "", entry{name: "./usr/src/linux-source-7.2.tar.xz", text: "x"}))

	if k, err := Fetch(t.Context(), c, "7.2", nil); err == nil {
		t.Errorf("the system's own sources have %+v", k)
	}
	k, err := Fetch(t.Context(), c, "debian:7.2@sid", func(what string) { t.Log(what) })
	if err != nil {
		t.Fatal(err)
	}
	if k.Release != release {
		t.Errorf("%+v", k)
	}
	if sources, err := os.ReadFile(filepath.Join(f.dir, "suite", "sources")); err != nil || !strings.HasSuffix(string(sources), "http://archive.invalid/debian/ sid main\n") {
		t.Errorf("sources %q, %v", sources, err)
	}
	if again, ok := Lookup(c, "7.2@sid"); !ok || *again != *k {
		t.Errorf("looked up %+v", again)
	}
	if _, ok := Lookup(c, "7.2"); ok {
		t.Error("the suite's kernel stands for the system's")
	}
	if _, err := FetchHeaders(t.Context(), c, release, nil); err != nil {
		t.Error(err)
	}
	if s, err := FetchSource(t.Context(), c, "7.2@sid", nil); err != nil || s.Version != "linux-source-7.2 7.2.13-1" {
		t.Errorf("source %+v, %v", s, err)
	}
	if _, err := os.Stat(filepath.Join(f.dir, "names", "linux-image-"+release)); err == nil {
		t.Error("the system's lists have changed")
	}
}

func TestNoSuite(t *testing.T) {
	for name, tt := range map[string]struct{ version, targets, want string }{
		"not in it":       {"7.3@sid", debianTargets, "suite sid of the distribution has no such package"},
		"no archive":      {"7.2@sid", "Debian\tDebian-Security\tmain\thttp://x/\n", "no archive of Debian or Ubuntu"},
		"a bad URI":       {"7.2@sid", "Debian\tDebian\tmain\thttp://x/ y\n", "no archive of Debian or Ubuntu"},
		"another's":       {"7.2@sid", "Other\tOther\tmain\thttp://x/\n", "no archive of Debian or Ubuntu"},
		"no suite's name": {"7.2@../x", debianTargets, "invalid kernel version"},
		"an empty one":    {"7.2@", debianTargets, "invalid kernel version"},
	} {
		t.Run(name, func(t *testing.T) {
			f, c := newFakeApt(t), openCache(t)
			f.write("targets", []byte(tt.targets))
			_, err := Fetch(t.Context(), c, tt.version, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "stile-apt-*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}
