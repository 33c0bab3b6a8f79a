package guest

import (
	"errors"
	"fmt"
	"strings"
)

// ValidateAgent refuses words for the kernel's command line with which a guest's agent can't work. A kernel and an initramfs that are
// booted as they are may have any.
func (s Spec) ValidateAgent() error {
	var faults []error
	for _, text := range s.Append {
		for word := range strings.FieldsSeq(text) {
			key, value, _ := strings.Cut(word, "=")
			why := ""
			switch {
			case key == "acpi" && value == "off", key == "pci" && value == "off":
				why = "the kernel would not find stile's devices, the channel to the agent among them"
			case key == "rdinit", key == "noinitrd":
				why = "the agent is the initramfs's /init"
			}
			if why != "" {
				faults = append(faults, fmt.Errorf("--append %s: %s; without a command, -i boots a kernel and an initramfs with any words", word, why))
			}
		}
	}
	return errors.Join(faults...)
}
