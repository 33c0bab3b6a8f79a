package guest

import (
	"os"
	"regexp"
	"strings"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/lab"
)

// envTyped is set for a stile in the nested host that a stile outside runs for its user: the flags of "stile lab", as the
// user would type them, that lead to this nested host. In a shell in the nested host it is not set.
const envTyped = "STILE_TYPED_OUTSIDE"

// typed returns the flags that lead to the nested host of l.
func (l LabSpec) typed() string {
	var words []string
	topology := l.Topology
	if topology == "" {
		topology = lab.PlainTopology
	}
	for _, f := range []struct{ name, value string }{{"--topology", topology}, {"--kernel", l.Kernel}, {"--modules", l.Modules}} {
		if f.value != "" {
			words = append(words, f.name, quoted(f.value))
		}
	}
	return strings.Join(words, " ")
}

// quoted is a word as a shell reads it.
func quoted(word string) string {
	if word != "" && !strings.ContainsFunc(word, func(r rune) bool { return strings.ContainsRune(" \t\n\"'\\$&|;<>()*?[]#~`!{}", r) }) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// Advice returns text, which may name commands of stile, with those that look at this machine's devices or change them as
// they must be typed where the user is: a nested host forgets what was bound in it, so that what needs it runs there, too.
// A nested host has no firmware setup and no command line of the user's: another topology takes their place.
func Advice(text string) string {
	if Nested() {
		for _, remedy := range hostpci.IOMMURemedies() {
			text = strings.ReplaceAll(text, remedy, topologyRemedy)
		}
	}
	flags, outside := os.LookupEnv(envTyped)
	if !outside {
		return text
	}
	changes := regexp.MustCompile(`\bstile (?:bind|unbind|mdev (?:wrap|unwrap|create|remove))\b(?: (?:--[a-z-]+|[0-9A-Fa-f]+[-:.][-0-9A-Fa-f:.]*[0-9A-Fa-f]))*`)
	text = changes.ReplaceAllString(text, "stile lab run "+literal(flags)+" -- sh -c '$0 && COMMAND'")
	looks := regexp.MustCompile(`\bstile (devices|mdev list)\b`)
	return looks.ReplaceAllStringFunc(text, func(command string) string {
		if command == "stile devices" {
			return "stile lab devices " + flags
		}
		return "stile lab run " + flags + " -- " + command
	})
}

// literal keeps a replacement's text from being read as a reference.
func literal(text string) string { return strings.ReplaceAll(text, "$", "$$") }

// topologyRemedy is what helps in a nested host without an IOMMU.
const topologyRemedy = "choose a topology with an IOMMU (--topology): stile lab topologies shows them"

// AdviseDevices turns the remedies in s into what must be typed where the user is.
func AdviseDevices(s *hostpci.Snapshot) {
	s.IOMMU.Remedy = Advice(s.IOMMU.Remedy)
	for _, g := range s.Groups {
		g.Viability.Remedy = Advice(g.Viability.Remedy)
	}
}
