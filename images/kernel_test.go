package images

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"archive/zip"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
)

// TestPins holds the constants to go.mod and go.sum.
func TestPins(t *testing.T) {
	content, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", content, nil)
	if err != nil {
		t.Fatal(err)
	}
	versions := make(map[string]string)
	for _, r := range mod.Require {
		versions[r.Mod.Path] = r.Mod.Version
	}
	if got := versions[kernelModule]; got != kernelVersion {
		t.Errorf("go.mod has %s %s, this package %s", kernelModule, got, kernelVersion)
	}
	if got := versions[uRootModule]; got != uRootVersion {
		t.Errorf("go.mod has %s %s, this package %s", uRootModule, got, uRootVersion)
	}
	sums, err := os.ReadFile("../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	if line := kernelModule + " " + kernelVersion + " " + kernelSum + "\n"; !strings.Contains(string(sums), line) {
		t.Errorf("go.sum does not have %q", line)
	}
	if p := defaultKernelPin(); p.Path != kernelModule || p.Version.Version != kernelVersion || p.sum != kernelSum {
		t.Errorf("the build list says %+v", p)
	}
}

// fakeModule makes a module's zip file and its hash.
func fakeModule(t *testing.T, m module.Version, file, content string) (archive []byte, sum string) {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f, err := w.Create(m.String() + "/" + file)
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte(content))
	w.Close()
	path := writeFile(t, filepath.Join(t.TempDir(), "zip"), b.Bytes())
	if sum, err = dirhash.HashZip(path, dirhash.Hash1); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), sum
}

func TestDownload(t *testing.T) {
	m := module.Version{Path: "example.com/Kernel", Version: "v1.0.0"}
	archive, sum := fakeModule(t, m, "vmlinuz", "kernel")
	const path = "/example.com/!kernel/@v/v1.0.0.zip"
	asked := map[string]int{} // no two at once
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked[r.URL.Path]++
		switch {
		case r.URL.Path == "/busy"+path && asked[r.URL.Path] == 1:
			http.Error(w, "later", http.StatusServiceUnavailable)
		case r.URL.Path == "/good"+path, r.URL.Path == "/busy"+path:
			w.Write(archive)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "example.com/!kernel/@v/v1.0.0.zip"), archive)

	tests := []struct {
		name, proxy, sum string
		want             string // part of the error
	}{
		{"proxy", server.URL + "/good", sum, ""},
		{"second proxy", server.URL + "/bad," + server.URL + "/good", sum, ""},
		{"busy proxy", server.URL + "/busy", sum, ""},
		{"file", "file://" + dir, sum, ""},
		{"wrong hash", server.URL + "/good", "h1:wrong", "h1:wrong"},
		{"not there", server.URL + "/bad", sum, "404"},
		{"off", "off", sum, errOffline.Error()},
		{"direct only", "direct", sum, errOffline.Error()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("GOPROXY", test.proxy)
			var got bytes.Buffer
			err := download(t.Context(), pin{m, test.sum}, "vmlinuz", &got)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want an error with %q", err, test.want)
				}
				return
			}
			if err != nil || got.String() != "kernel" {
				t.Errorf("got %q, %v", got.String(), err)
			}
		})
	}
	if n := asked["/bad"+path]; n != 2 {
		t.Errorf("a proxy without the module was asked %d times by two downloads", n)
	}
}

func TestProxies(t *testing.T) {
	for setting, want := range map[string][]string{
		"":                            {"https://proxy.golang.org"},
		"https://a/,https://b|direct": {"https://a", "https://b"},
		"https://a,off,https://b":     {"https://a"},
	} {
		if got := proxies(setting); !slices.Equal(got, want) {
			t.Errorf("proxies(%q) = %q, want %q", setting, got, want)
		}
	}
}

func TestFindInModuleCache(t *testing.T) {
	m := module.Version{Path: "example.com/Kernel", Version: "v1.0.0"}
	modcache, gopath := t.TempDir(), t.TempDir()
	t.Setenv("GOMODCACHE", modcache)
	if path, ok := findInModuleCache(m, "vmlinuz"); ok {
		t.Errorf("found %s", path)
	}
	want := writeFile(t, filepath.Join(modcache, "example.com/!kernel@v1.0.0/vmlinuz"), []byte("x"))
	if path, ok := findInModuleCache(m, "vmlinuz"); !ok || path != want {
		t.Errorf("found %s, want %s", path, want)
	}
	t.Setenv("GOMODCACHE", "")
	t.Setenv("GOPATH", gopath)
	want = writeFile(t, filepath.Join(gopath, "pkg/mod/example.com/!kernel@v1.0.0/vmlinuz"), []byte("x"))
	if path, ok := findInModuleCache(m, "vmlinuz"); !ok || path != want {
		t.Errorf("found %s, want %s", path, want)
	}
}

func TestDefaultKernelOffline(t *testing.T) {
	t.Setenv("GOMODCACHE", t.TempDir())
	t.Setenv("GOPROXY", "off")
	_, err := openTest(t).DefaultKernel(t.Context())
	if err == nil || !strings.Contains(err.Error(), "go mod download "+kernelModule+"@"+kernelVersion) {
		t.Errorf("no remedy in %v", err)
	}
}
