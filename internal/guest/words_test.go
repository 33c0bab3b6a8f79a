package guest

import "testing"

func TestWordsForTheAgent(t *testing.T) {
	for _, words := range []string{"acpi=off", "quiet acpi=off", "pci=off", "rdinit=/bin/sh", "noinitrd"} {
		if (Spec{Append: []string{"foo", words}}).ValidateAgent() == nil {
			t.Errorf("%q is accepted", words)
		}
	}
	for _, words := range []string{"acpi=noirq", "pci=nomsi,noaer", "init=/bin/sh", "acpi_os_name=off", ""} {
		if err := (Spec{Append: []string{words}}).ValidateAgent(); err != nil {
			t.Errorf("%q: %v", words, err)
		}
	}
}
