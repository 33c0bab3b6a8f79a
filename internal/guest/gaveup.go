package guest

import (
	"bytes"
	"regexp"

	"github.com/stile-vmm/stile/vmm"
)

// lastWord is what an agent that gives up prints on the console before it powers the machine off.
var lastWord = regexp.MustCompile(`(?m)^stile-agent: ([^\r\n]{1,1000}): powering off\r?$`)

// AgentError says that the guest's agent could not do its work, and powered the guest off.
type AgentError struct {
	Words string // its own
	DiedError
}

func (e *AgentError) Error() string { return "the guest's agent gave up: " + e.Words }

// Unwrap has ExitStatus and others see a guest that died.
func (e *AgentError) Unwrap() error { return &e.DiedError }

// gaveUp says why the VM has ended: by its agent, if that said so, or by itself.
func (g *Guest) gaveUp() error {
	if words := agentWords(g.KernelLog()); words != "" && (g.result.Reason == vmm.PowerOff || g.result.Reason == vmm.Reset) {
		return &AgentError{words, DiedError{g.result}}
	}
	return &DiedError{g.result}
}

// agentWords returns why the agent gave up, by a console's last lines, "" if it did not. The text is a guest's: what is not printable is
// left out.
func agentWords(log []byte) string {
	found := lastWord.FindAllSubmatch(log, -1)
	if len(found) == 0 {
		return ""
	}
	return string(bytes.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, found[len(found)-1][1]))
}
