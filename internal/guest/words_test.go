package guest

import "testing"

func TestWordsForTheAgent(t *testing.T) {
	for _, words := range []string{"acpi=off", "quiet acpi=off", "pci=off"} {
		if (Spec{Append: []string{"foo", words}}).ValidateAgent() == nil {
			t.Errorf("%q is accepted", words)
		}
	}
	for _, words := range []string{"acpi=noirq", "pci=nomsi,noaer", "init=/bin/sh", "acpi_os_name=off", "rdinit=/other", ""} {
		if err := (Spec{Append: []string{words}}).ValidateAgent(); err != nil {
			t.Errorf("%q: %v", words, err)
		}
	}
}
