package guest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/devices/backend/share"
)

func TestParseFolder(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ text, guest, host string }{
		{"/srv", "/srv", "/srv"},
		{"/srv/", "/srv", "/srv"},
		{"src", here + "/src", here + "/src"},
		{"/mnt=src", "/mnt", here + "/src"},
		{"/mnt=/srv", "/mnt", "/srv"},
		{"a=b", here + "/a=b", here + "/a=b"},
		{"/a=b=/c=d", "/a=b", "/c=d"},
		{"/mnt/../x/=/srv", "/x", "/srv"},
	} {
		f, err := ParseFolder(FolderRO, test.text)
		if err != nil || f.target() != test.guest || f.Host != test.host {
			t.Errorf("%s: %+v, %v; want %s at %s", test.text, f, err, test.host, test.guest)
		}
		again, err := ParseFolder(FolderRO, f.String())
		if err != nil || again.target() != f.target() || again.Host != f.Host {
			t.Errorf("%s: %q is read as %+v, %v", test.text, f.String(), again, err)
		}
	}
	for _, text := range []string{"", "/mnt="} {
		if f, err := ParseFolder(FolderRO, text); err == nil {
			t.Errorf("%q was accepted as %+v", text, f)
		}
	}
}

func TestFolderFaultsAllAtOnce(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := Spec{Folders: []Folder{
		{FolderRO, dir, "/a"}, {FolderRW, dir, "/a/"}, {FolderRW, dir, "relative"}, {FolderRW, dir, "/.."},
		{FolderCOW, "/proc", "/b"}, {FolderRO, file, "/c"}, {FolderRO, dir + "/none", "/d"}, {"rx", dir, "/e"},
		{FolderRO, dir + "/src=/x", ""},
	}}.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"both are /a in the guest", "must be absolute", "below it", "file system of the kernel", "single files can't be shared", "/src=/x: no such file or directory; for GUEST=HOST, GUEST must be absolute", "no such file", `mode "rx"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not among: %v", want, err)
		}
	}
	many := Spec{}
	for i := range maxFolders + 1 {
		many.Folders = append(many.Folders, Folder{FolderRO, dir, "/" + strings.Repeat("x", i+1)})
	}
	if err := many.Validate(); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("%d folders: %v", maxFolders+1, err)
	}
}

func TestFolderMountsAreInOrderOfDepth(t *testing.T) {
	s := Spec{Folders: []Folder{{FolderRW, "/h1", "/a/b/c"}, {FolderRO, "/h2", "/a"}, {FolderCOW, "/h3", "/a/b"}}}
	var got []string
	for _, m := range s.folderMounts() {
		got = append(got, m.Source+" "+m.Target)
	}
	if want := "stile.1 /a, stile.2 /a/b, stile.0 /a/b/c"; strings.Join(got, ", ") != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestShareOwner(t *testing.T) {
	t.Setenv(EnvNested, "1")
	t.Setenv(envOwner, "1000:100")
	if got, err := shareOwner(); err != nil || *got != (share.Owner{UID: 1000, GID: 100}) {
		t.Errorf("%v, %v", got, err)
	}
	t.Setenv(envOwner, "me")
	if got, err := shareOwner(); err == nil {
		t.Errorf("accepted as %v", got)
	}
}

// TestMountPoints: a folder that can't be written has the places of others in it.
func TestMountPoints(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "there"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := Spec{Folders: []Folder{
		{Mode: FolderRW, Host: dir, Guest: "/a/new/deep"}, {Mode: FolderRO, Host: dir, Guest: "/a"}, {Mode: FolderRW, Host: dir, Guest: "/a/there"},
		{Mode: FolderRO, Host: dir, Guest: "/ab"}, {Mode: FolderCOW, Host: dir, Guest: "/a/copy"},
	}}
	for _, m := range s.folderMounts() {
		want := []string(nil)
		if m.Target == "/a" {
			want = []string{"copy", "new/deep"}
		}
		if !slices.Equal(m.Points, want) || m.Target == "/a" && (!m.Overlay || !m.ReadOnly) {
			t.Errorf("%+v, want places %q", m, want)
		}
	}
}
