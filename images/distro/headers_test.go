package distro

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const headersRelease = "6.1.0-56-amd64"

// addHeaders makes packages known as Debian has them: three, with links between them and a makefile that includes another
// by its installed path.
func addHeaders(t *testing.T, f *fakeApt) {
	t.Helper()
	const src = "./usr/src/linux-headers-"
	f.add("", "linux-headers-"+headersRelease, "6.1.192-2", "linux-headers-6.1.0-56-common (= 6.1.192-2), linux-kbuild-6.1 (>= 6.1.192-2), linux-compiler-gcc-12-x86",
		makeDeb(t, ".xz",
			entry{name: src + headersRelease + "/Makefile", text: "A := 1\nKBUILD_OUTPUT=/usr/src/linux-headers-" + headersRelease + "\ninclude /usr/src/linux-headers-6.1.0-56-common/Makefile\n"},
			entry{name: src + headersRelease + "/scripts", link: "../../lib/linux-kbuild-6.1/scripts"},
			entry{name: "./lib/modules/" + headersRelease + "/build", link: "/usr/src/linux-headers-" + headersRelease}))
	f.add("", "linux-headers-6.1.0-56-common", "6.1.192-2", "",
		makeDeb(t, ".xz", entry{name: src + "6.1.0-56-common/Makefile", text: "all:\n\t@echo common with $(A) $(KBUILD_OUTPUT)\n"}))
	f.add("", "linux-kbuild-6.1", "6.1.192-2", "libc6, linux-headers-6.1.0-56-common",
		makeDeb(t, ".xz", entry{name: "./usr/lib/linux-kbuild-6.1/scripts/fixdep", text: "fixdep"}, entry{name: "./usr/share/doc/x", text: "not wanted"}))
}

func TestFetchHeaders(t *testing.T) {
	f, c := newFakeApt(t), openCache(t)
	addHeaders(t, f)
	if dir, ok := LookupHeaders(c, headersRelease); ok {
		t.Errorf("found before it was fetched: %s", dir)
	}
	dir, err := FetchHeaders(t.Context(), c, headersRelease, func(what string) { t.Log(what) })
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "scripts", "fixdep")); err != nil || string(text) != "fixdep" {
		t.Errorf("through the link: %q, %v", text, err)
	}
	if out, err := exec.Command("make", "-s", "-C", dir).CombinedOutput(); err != nil || string(out) != "common with 1 "+dir+"\n" {
		t.Errorf("make: %q, %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "../../share")); err == nil {
		t.Error("documentation was unpacked")
	}
	f.calls()
	if again, err := FetchHeaders(t.Context(), c, headersRelease, nil); err != nil || again != dir || len(f.calls()) > 0 {
		t.Errorf("again: %s, %v", again, err)
	}
}

func TestNoHeaders(t *testing.T) {
	for name, test := range map[string]struct {
		release string
		prepare func(*fakeApt)
		want    string
	}{
		"no such package":        {headersRelease, func(*fakeApt) {}, "no such package"},
		"a kernel built by hand": {"6.1.0_Mine", func(*fakeApt) {}, "no such package"},
		"a path":                 {"../x", func(*fakeApt) {}, "no such package"},
		"a part is missing":      {headersRelease, func(f *fakeApt) { f.add("", "linux-headers-"+headersRelease, "1", "linux-kbuild-6.1", makeDeb(t, "")) }, "linux-kbuild-6.1, which apt does not have"},
		"no makefile":            {headersRelease, func(f *fakeApt) { f.add("", "linux-headers-"+headersRelease, "1", "", makeDeb(t, "")) }, "no makefile"},
		"endless": {headersRelease, func(f *fakeApt) {
			f.add("", "linux-headers-"+headersRelease, "1", "linux-headers-"+strings.Join(strings.Split("abcdefghij", ""), ", linux-headers-"), makeDeb(t, ""))
			for _, name := range strings.Split("abcdefghij", "") {
				f.add("", "linux-headers-"+name, "1", "", makeDeb(t, ""))
			}
		}, "more packages than is credible"},
	} {
		t.Run(name, func(t *testing.T) {
			f, c := newFakeApt(t), openCache(t)
			test.prepare(f)
			_, err := FetchHeaders(t.Context(), c, test.release, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
			if got := cachedKernels(t, c); len(got) > 0 {
				t.Errorf("in the cache: %q", got)
			}
		})
	}
}
