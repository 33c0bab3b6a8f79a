package bytejson

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type name string

type sample struct {
	Text    string `json:"text"`
	Named   name
	Many    []string
	Array   [2]string
	Pointer *sample `json:",omitempty"`
	Map     map[string]string
	Bytes   []byte
	Time    time.Time
	Address netip.Addr
	Number  int64
	Left    string `json:"-"`
}

// every is a string of every byte but 0.
func every() string {
	var b strings.Builder
	for i := 1; i < 256; i++ {
		b.WriteByte(byte(i))
	}
	return b.String()
}

func full() sample {
	s := sample{
		Text: every(), Named: name(every()), Many: []string{"", "ü", "\xff"}, Array: [2]string{"\x80", "a"},
		Map: map[string]string{"key": every()}, Bytes: []byte(every()), Time: time.Unix(1, 2).UTC(),
		Address: netip.MustParseAddr("10.0.0.1"), Number: 1 << 60,
	}
	inner := s
	s.Pointer = &inner
	return s
}

// TestRoundTrip: every byte of every string comes back, and what was given is left as it was.
func TestRoundTrip(t *testing.T) {
	given := full()
	data, err := Marshal(&given)
	if err != nil {
		t.Fatal(err)
	}
	options := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff(full(), given, options); diff != "" {
		t.Errorf("Marshal has changed what it was given: %s", diff)
	}
	var got sample
	if err := Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full(), got, options); diff != "" {
		t.Error(diff)
	}
	if plain, _ := json.Marshal("ascii"); true {
		if data, err := Marshal("ascii"); err != nil || string(data) != string(plain) {
			t.Errorf("%s, %v", data, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	var s sample
	for _, text := range []string{`{"text": "\u0100"}`, `{"Pointer": {"Many": ["€"]}}`, `{`} {
		if err := Unmarshal([]byte(text), &s); err == nil {
			t.Errorf("%s was accepted", text)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	data, err := Marshal(full())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"text": "\u00ff\ud800"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s, again sample
		if Unmarshal(data, &s) != nil {
			return
		}
		written, err := Marshal(s)
		if err != nil {
			return // a time of a year that can't be written
		}
		if err := Unmarshal(written, &again); err != nil || again.Text != s.Text || again.Named != s.Named {
			t.Errorf("%q became %q: %v", s.Text, again.Text, err)
		}
	})
}
