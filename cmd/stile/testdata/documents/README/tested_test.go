package tested

import (
	"os"
	"testing"
)

func TestLink(t *testing.T) {
	if name, err := os.Hostname(); err != nil || name != "stile" {
		t.Errorf("not in a guest, but on %q, %v", name, err)
	}
}
