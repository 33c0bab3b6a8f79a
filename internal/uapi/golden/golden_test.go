package golden

import (
	"reflect"
	"testing"
)

type sample struct {
	A uint8
	_ [3]uint8
	B uint32
	C uint64
}

func TestStruct(t *testing.T) {
	f := Facts{}
	if err := f.Struct("sample", sample{}, "a b -"); err != nil {
		t.Fatal(err)
	}
	want := Facts{"sample": 16, "sample.a": 0, "sample.b": 4}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("got %v, want %v", f, want)
	}
	for _, names := range []string{"a b", "a b c d"} {
		if err := (Facts{}).Struct("sample", sample{}, names); err == nil {
			t.Errorf("names %q: no error", names)
		}
	}
}

func TestCompareFindsEveryDifference(t *testing.T) {
	got := Facts{"same": 1, "other": 2, "extra": 3}
	want := Facts{"same": 1, "other": 4, "lacking": 5}
	diffs := compare(got, want)
	if len(diffs) != 3 {
		t.Errorf("got %q, want 3 differences", diffs)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{"", "name", "name x", "a 1\na 1"} {
		if f, err := parse([]byte(in)); err == nil {
			t.Errorf("parse(%q) = %v, want an error", in, f)
		}
	}
}
