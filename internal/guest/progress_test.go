package guest

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

func TestSlowly(t *testing.T) {
	failed := errors.New("failed")
	var out bytes.Buffer
	if err := after(time.Hour, &out, "building it", func() error { return failed }); err != failed || out.Len() > 0 {
		t.Errorf("%v, %q", err, out.String())
	}
	err := after(0, &out, "building it", func() error { time.Sleep(100 * time.Millisecond); return nil })
	if err != nil || out.String() != "stile: building it…\n" {
		t.Errorf("%v, %q", err, out.String())
	}
	if err := slowly(nil, "", func() error { return failed }); err != failed {
		t.Error(err)
	}
}
