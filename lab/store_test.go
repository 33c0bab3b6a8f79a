package lab

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const testKey = "0123456789abcdef"

// fakeState puts a state of a machine with 4 MiB into the store.
func fakeState(t *testing.T, s *Store, key string) {
	t.Helper()
	dir, err := s.tempDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := makeSparse(filepath.Join(dir, ramFile), 4*MiB); err != nil {
		t.Fatal(err)
	}
	if err := writeState(dir, Meta{Key: key, Mem: 4 * MiB, Agent: "agent"}, []byte("the stream of "+key)); err != nil {
		t.Fatal(err)
	}
	if err := s.publish(dir, key); err != nil {
		t.Fatal(err)
	}
}

func testStore(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(filepath.Join(t.TempDir(), "lab"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStateIsLoaded(t *testing.T) {
	s := testStore(t)
	if _, err := s.load(testKey); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no state: %v, want ErrNotExist", err)
	}
	fakeState(t, s, testKey)
	st, err := s.load(testKey)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if string(st.stream) != "the stream of "+testKey || st.meta.Agent != "agent" || st.meta.ID == "" {
		t.Errorf("loaded %q, %+v", st.stream, st.meta)
	}
}

func TestDamageIsNoticed(t *testing.T) {
	in := func(name string, change func(path string) error) func(dir string) error {
		return func(dir string) error { return change(filepath.Join(dir, name)) }
	}
	replace := func(old, new string) func(string) error {
		return func(path string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, bytes.ReplaceAll(data, []byte(old), []byte(new)), 0o600)
		}
	}
	truncate := func(n int64) func(string) error { return func(p string) error { return os.Truncate(p, n) } }
	for name, damage := range map[string]func(dir string) error{
		"stream missing":   in(streamFile, os.Remove),
		"stream cut":       in(streamFile, truncate(5)),
		"stream empty":     in(streamFile, truncate(0)),
		"stream huge":      in(streamFile, truncate(maxStream+1)),
		"stream changed":   in(streamFile, replace("stream", "strEam")),
		"stream a folder":  in(streamFile, func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }),
		"memory missing":   in(ramFile, os.Remove),
		"memory cut":       in(ramFile, truncate(2*MiB)),
		"memory rewritten": in(ramFile, func(p string) error { return os.Chtimes(p, time.Time{}, time.Now().Add(time.Hour)) }),
		"meta missing":     in(metaFile, os.Remove),
		"meta cut":         in(metaFile, truncate(10)),
		"meta no JSON":     in(metaFile, replace("{", "[")),
		"other key":        in(metaFile, replace(testKey, "fedcba9876543210")),
		"other format":     in(metaFile, replace(`"format": 1`, `"format": 99`)),
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			fakeState(t, s, testKey)
			if err := damage(filepath.Join(s.dir, testKey)); err != nil {
				t.Fatal(err)
			}
			if st, err := s.load(testKey); !errors.Is(err, errDamaged) {
				t.Errorf("load: %+v, %v; want errDamaged", st, err)
			}
			states, err := s.List()
			if err != nil || len(states) != 1 || states[0].Damage == "" {
				t.Errorf("list: %+v, %v", states, err)
			}
			fakeState(t, s, testKey) // in its place
			st, err := s.load(testKey)
			if err != nil {
				t.Fatal(err)
			}
			st.Close()
		})
	}
}

func TestListAndPrune(t *testing.T) {
	s := testStore(t)
	keys := []string{"aaaa", "bbbb", "cccc"}
	for i, key := range keys {
		fakeState(t, s, key)
		used := time.Unix(int64(1000+i), 0)
		if err := os.Chtimes(filepath.Join(s.dir, key), used, used); err != nil {
			t.Fatal(err)
		}
	}
	stale := filepath.Join(s.dir, tempPrefix+"killed")
	if err := errors.Join(os.Mkdir(stale, 0o700), os.WriteFile(filepath.Join(stale, ramFile), []byte("half"), 0o600)); err != nil {
		t.Fatal(err)
	}
	states, err := s.List()
	if err != nil || len(states) != 3 || states[0].Key != "cccc" || states[2].Key != "aaaa" {
		t.Fatalf("list %+v, %v", states, err)
	}
	if st := states[0]; st.Damage != "" || st.InUse || st.Disk <= 0 || st.Disk >= 4*MiB || st.Meta.Mem != 4*MiB {
		t.Errorf("state %+v", st)
	}

	running, err := loadState(filepath.Join(s.dir, "aaaa"), "aaaa") // the oldest
	if err != nil {
		t.Fatal(err)
	}
	freed, err := s.Prune(t.Context(), 1)
	if err != nil || freed <= 0 {
		t.Errorf("prune: %d, %v", freed, err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a killed build left is still there: %v", err)
	}
	wantKeys(t, s, "cccc", "aaaa")
	running.Close()
	if _, err := s.Prune(t.Context(), 0); err != nil {
		t.Error(err)
	}
	wantKeys(t, s)
}

func wantKeys(t *testing.T, s *Store, want ...string) {
	t.Helper()
	states, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	if len(states) != len(want) {
		t.Fatalf("%d states, want %q", len(states), want)
	}
	for i, st := range states {
		if st.Key != want[i] {
			t.Errorf("state %d is %s, want %s", i, st.Key, want[i])
		}
	}
}

func TestLockIsWaitedFor(t *testing.T) {
	s := testStore(t)
	first, err := s.lock(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	if _, err := s.lock(ctx, func() { cancel(why) }); !errors.Is(err, why) {
		t.Errorf("cancelled: %v, want %v", err, why)
	}
	second, err := s.lock(t.Context(), func() { first.Close() })
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

func TestCacheThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(filepath.Join(file, "lab")); err == nil {
		t.Error("a cache below a file was opened")
	}
}
