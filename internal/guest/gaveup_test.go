package guest

import "testing"

func TestAgentWords(t *testing.T) {
	for log, want := range map[string]string{
		"": "",
		"[    1.000000] a\nstile-agent: no driver virtio_console: powering off\r\n[    1.1] reboot: Power down\n": "no driver virtio_console",
		"stile-agent: \x1b[31mred: powering off":                       "[31mred",
		"stile-agent: still no virtio port\n":                          "",
		"it says stile-agent: nothing: powering off\n":                 "",
		"stile-agent: a: powering off\nstile-agent: b: powering off\n": "b",
	} {
		if got := agentWords([]byte(log)); got != want {
			t.Errorf("%q: %q, want %q", log, got, want)
		}
	}
}
