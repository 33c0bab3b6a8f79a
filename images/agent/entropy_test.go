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
	out, err := exec.CommandContext(t.Context(), tool, "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.FieldsSeq(string(out)) {
		switch pkg {
		case "math/rand", "math/rand/v2", "hash/maphash":
			t.Errorf("the agent imports %s, whose seed is saved with the machine", pkg)
		}
	}
}
