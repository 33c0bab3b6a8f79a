package agent

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/testenv"
)

// TestAgentDrawsNothing: what this process drew before its machine was saved, it draws in each resumed one.
func TestAgentDrawsNothing(t *testing.T) {
	tool, err := exec.LookPath("go")
	if err != nil {
		testenv.Missing(t, "go", err.Error())
	}
	out, err := exec.CommandContext(t.Context(), tool, "list", "-deps", "-f", `{{.ImportPath}} {{join .Imports " "}}`, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		pkg, imports, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch pkg {
		case "math/rand", "math/big", "crypto/internal/randutil":
			continue // crypto/rand brings them; they draw from what their callers give them, and for making keys
		}
		for name := range strings.FieldsSeq(imports) {
			switch name {
			case "math/rand", "math/rand/v2", "hash/maphash":
				t.Errorf("the agent imports %s by %s, whose seed is saved with the machine", name, pkg)
			}
		}
	}
}
