package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/control"
	"github.com/stile-vmm/stile/internal/say"
)

// TestTerminalEscapes: what a guest has printed, or a VM calls itself, is shown and not obeyed.
func TestTerminalEscapes(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(control.LogPath(dir, "vm"), []byte("a\x1b]52;c;aGk=\x07b\r\nc\xff\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printLog(say.Writer(&out), dir, "vm"); err != nil || out.String() != `a\x1b]52;c;aGk=\x07b`+"\n"+`c\xff`+"\n" {
		t.Errorf("logs: %q, %v", &out, err)
	}
	text := captured(t, func() {
		err := printVMs([]control.Info{{
			ID: "vm", State: "\x1b[2J", On: "host\n", Kernel: "6\u009b1", Started: time.Now(), Devices: []string{"\t\x07"}, Command: []string{"sh", "-c", "\x1b[31m\r\nä"},
		}})
		if err != nil {
			t.Error(err)
		}
	})
	if strings.ContainsAny(text, "\x1b\x07\r\u009b") || strings.Count(text, "\n") != 2 || !strings.Contains(text, `sh -c \x1b[31m\nä`) {
		t.Errorf("ps: %q", text)
	}
}
