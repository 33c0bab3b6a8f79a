// Command stile-agent is the agent on its own, for programs that can't be a guest's
// /init themselves because they are not static. It does nothing outside a guest.
package main

import (
	"fmt"
	"os"

	"github.com/stile-vmm/stile/images/agent"
)

func main() {
	agent.MaybeRun()
	fmt.Fprintln(os.Stderr, "stile-agent runs as /init in a guest of stile, and nowhere else")
	os.Exit(125)
}
