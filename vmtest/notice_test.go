package vmtest

import (
	"bytes"
	"testing"
)

// TestNotice: each VM that is started has the same news, and the user reads it once.
func TestNotice(t *testing.T) {
	var r registry
	var out bytes.Buffer
	for _, text := range []string{"one", "one", "two", "one"} {
		r.notice(&out, text)
	}
	if got := out.String(); got != "vmtest: one\nvmtest: two\n" {
		t.Errorf("said %q", got)
	}
}
