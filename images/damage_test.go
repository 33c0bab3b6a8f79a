package images

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/testenv"
)

// damages are ways in which a file of the cache stops being what was written.
func damages() map[string]func(path string) error {
	return map[string]func(path string) error{
		"cut to half": func(path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return os.Truncate(path, info.Size()/2)
		},
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"a folder": func(path string) error {
			return errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "with", "more"), 0o700))
		},
		"flipped, at the same size and time": func(path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content[len(content)/2] ^= 0x40
			if err := os.WriteFile(path, content, 0o600); err != nil {
				return err
			}
			return os.Chtimes(path, info.ModTime(), info.ModTime())
		},
		"a link to nothing": func(path string) error {
			return errors.Join(os.Remove(path), os.Symlink("/no/such", path))
		},
		"gone": os.Remove,
	}
}

// made is an entry of each kind: how it is asked for, and the file of it that is damaged.
type made struct {
	use  func(c *Cache) (string, error)
	file string // below the entry's path
}

func eachKind() map[Kind]made {
	content := bytes.Repeat([]byte("what belongs here "), 1000)
	all := make(map[Kind]made)
	for _, kind := range kinds() {
		all[kind] = made{use: func(c *Cache) (string, error) {
			return c.File(context.Background(), kind, "key", func(w *os.File) error {
				_, err := w.Write(content)
				return err
			})
		}}
		if kind.isFolder() {
			all[kind] = made{file: "lib/modules/6.1/a.ko", use: func(c *Cache) (string, error) {
				return c.Folder(context.Background(), kind, "key", func(dir string) error {
					path := filepath.Join(dir, "lib/modules/6.1/a.ko")
					return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644))
				})
			}}
		}
	}
	delete(all, KindHash) // TestDamagedHash
	return all
}

// TestDamageIsRepaired damages each kind of entry, and its seal, and the entry itself where it is a folder. The next one that asks gets what was made.
func TestDamageIsRepaired(t *testing.T) {
	for kind, entry := range eachKind() {
		for name, damage := range damages() {
			t.Run(string(kind)+"/"+name, func(t *testing.T) {
				t.Parallel()
				c := openTest(t)
				path, err := entry.use(c)
				if err != nil {
					t.Fatal(err)
				}
				want := readTree(t, path)
				targets := []string{filepath.Join(path, entry.file), c.sealPath(kind, "key")}
				if kind.isFolder() {
					targets = append(targets, path)
				}
				for _, target := range targets {
					damageEntry(t, target, damage)
					if _, ok := c.Lookup(kind, "key"); ok && target != c.sealPath(kind, "key") {
						t.Errorf("Lookup finds the entry with %s %s", target, name)
					}
					again, err := entry.use(c)
					if err != nil || again != path {
						t.Fatalf("%s %s: %q, %v", target, name, again, err)
					}
					if got := readTree(t, path); got != want {
						t.Errorf("%s %s: the entry has %d bytes, want %d", target, name, len(got), len(want))
					}
					if _, ok := c.Lookup(kind, "key"); !ok {
						t.Errorf("%s %s: Lookup does not find the entry that was made anew", target, name)
					}
				}
				if left, err := os.ReadDir(filepath.Join(c.Dir(), string(kind))); err != nil || len(left) != 1 {
					t.Errorf("left: %v, %v", left, err)
				}
			})
		}
	}
}

// damageEntry has a folder in the place of an entry replaced by a file, where damage is for files.
func damageEntry(t *testing.T, path string, damage func(string) error) {
	t.Helper()
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, []byte("no folder"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := damage(path); err != nil {
		t.Fatal(err)
	}
}

// readTree returns all that is in a file or below a folder.
func readTree(t *testing.T, path string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(name)
		all.WriteString(strings.TrimPrefix(name, path) + "\n" + string(content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestDamagedHash damages what is remembered of a file's hash.
func TestDamagedHash(t *testing.T) {
	for name, damage := range damages() {
		t.Run(name, func(t *testing.T) {
			c := openTest(t)
			path := writeFile(t, filepath.Join(t.TempDir(), "file"), []byte("abc"))
			settle()
			want, err := c.HashFile(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			memos, err := filepath.Glob(c.path(KindHash, "*"))
			if err != nil || len(memos) != 1 {
				t.Fatalf("remembered: %v, %v", memos, err)
			}
			if err := damage(memos[0]); err != nil {
				t.Fatal(err)
			}
			if got, err := c.HashFile(t.Context(), path); err != nil || got != want {
				t.Errorf("%s, %v; want %s", got, err, want)
			}
			if words, err := readRecord(memos[0]); err != nil || words[0] != want {
				t.Errorf("remembered anew: %v, %v", words, err)
			}
		})
	}
}

// TestDamagedInitramfs damages the archive and what it was made from, by the way that a run takes.
func TestDamagedInitramfs(t *testing.T) {
	c := openTest(t)
	program := writeFile(t, filepath.Join(t.TempDir(), "agent"), bytes.Repeat([]byte("agent"), 10000))
	make := func() string {
		t.Helper()
		path, err := c.Initramfs(t.Context(), &Initramfs{Agent: &Agent{Path: program}})
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := make()
	want := readTree(t, path)
	for name, damage := range damages() {
		if err := damage(path); err != nil {
			t.Fatal(err)
		}
		if again := make(); again != path || readTree(t, again) != want {
			t.Errorf("%s: the archive in %s is another one", name, again)
		}
	}
}

// TestDamageThatStays names the remedies where a damaged entry can't be replaced.
func TestDamageThatStays(t *testing.T) {
	c := openTest(t)
	offline := errors.New("no network")
	entry := eachKind()[KindSource]
	path, err := entry.use(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	_, err = c.File(t.Context(), KindSource, "key", func(*os.File) error { return offline })
	if !errors.Is(err, offline) || !errors.Is(err, errDamaged) || !strings.Contains(err.Error(), path) {
		t.Errorf("an entry that can't be made again: %v", err)
	}

	if os.Getuid() == 0 {
		testenv.Missing(t, "unprivileged user", "root can remove anything")
	}
	if _, err := entry.use(c); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Truncate(path, 10), os.Chmod(filepath.Dir(path), 0o500)); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(filepath.Dir(path), 0o700)
	if _, err := entry.use(c); err == nil || !strings.Contains(err.Error(), "stile image prune") {
		t.Errorf("an entry that can't be removed: %v", err)
	}
}

// TestEntriesOfEarlierReleases have no seal. What takes long to make is taken as it is, once.
func TestEntriesOfEarlierReleases(t *testing.T) {
	for _, kind := range kinds() {
		if kind == KindHash {
			continue
		}
		c := openTest(t)
		name := c.path(kind, "key")
		if kind.isFolder() {
			name = filepath.Join(name, "file")
		}
		writeFile(t, name, []byte("of an earlier release"))
		if _, ok := c.Lookup(kind, "key"); ok != kind.adopt() {
			t.Errorf("%s: found %v", kind, ok)
		}
		if !kind.adopt() {
			continue
		}
		if err := os.Truncate(name, 3); err != nil {
			t.Fatal(err)
		}
		if _, ok := c.Lookup(kind, "key"); ok {
			t.Errorf("%s: found although it was cut after its first use", kind)
		}
	}
}

// TestDamageBelow damages what is compared now and then only: one of thousands of modules.
func TestDamageBelow(t *testing.T) {
	const below = "lib/modules/6.1/kernel/net/a.ko"
	for name, damage := range damages() {
		c := openTest(t)
		fill := func(dir string) error {
			path := filepath.Join(dir, below)
			return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("what belongs here"), 0o644))
		}
		path, err := c.Folder(t.Context(), KindTree, "key", fill)
		if err != nil {
			t.Fatal(err)
		}
		want := readTree(t, path)
		damageEntry(t, filepath.Join(path, below), damage)
		s, err := c.readSeal(KindTree, "key")
		if err != nil {
			t.Fatal(err)
		}
		s.compared = s.compared.Add(-2 * compareStep)
		if err := c.writeSeal(KindTree, "key", s); err != nil {
			t.Fatal(err)
		}
		if _, ok := c.Lookup(KindTree, "key"); ok {
			t.Errorf("%s: Lookup finds the entry", name)
		}
		if again, err := c.Folder(t.Context(), KindTree, "key", fill); err != nil || readTree(t, again) != want {
			t.Errorf("%s: not made anew, %v", name, err)
		}
	}
}
