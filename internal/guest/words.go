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
			if (key == "acpi" || key == "pci") && value == "off" {
				faults = append(faults, fmt.Errorf("--append %s: the kernel would not find stile's devices, the channel to the agent among them; "+
					"without a command, -i boots a kernel and an initramfs with any words", word))
			}
		}
	}
	return errors.Join(faults...)
}
