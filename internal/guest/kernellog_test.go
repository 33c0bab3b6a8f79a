package guest

import "testing"

func TestOpening(t *testing.T) {
	var o opening
	for _, part := range []string{"a program says Linux version 1\n", "[    0.000000] Lin", "ux ver"} {
		_, _ = o.Write([]byte(part))
		if o.whole() {
			t.Errorf("after %q it is whole", part)
		}
	}
	_, _ = o.Write([]byte("sion 7.1.2"))
	if !o.whole() {
		t.Error("the first line is not seen in parts")
	}
}

func TestPullerIsOver(t *testing.T) {
	var got int
	p := &puller{record: func([]byte) { got++ }}
	p.take([]byte("6,4,1,-;a"))
	p.take([]byte("no record"))
	p.over.Store(true)
	p.take([]byte("6,5,1,-;b"))
	if got != 1 || p.next != 5 {
		t.Errorf("%d records, next is %d", got, p.next)
	}
}
