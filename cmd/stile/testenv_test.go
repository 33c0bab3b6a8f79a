package main

import (
	"slices"
	"testing"
)

// TestTokensStay: a tested guest gets no variable that was not meant for it.
func TestTokensStay(t *testing.T) {
	f := &testFlags{env: []string{"MINE", "SET=1=2"}}
	for name, want := range map[string]bool{
		"PATH": true, "HOME": true, "TERM": true, "GOFLAGS": true, "CGO_ENABLED": true, "STILE_ON": true, "TEST_DB": true, "MINE": true,
		"GITHUB_TOKEN": false, "AWS_SECRET_ACCESS_KEY": false, "SSH_AUTH_SOCK": false, "SET": false,
	} {
		if got := f.carries(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := f.settings(); !slices.Equal(got, []string{"SET=1=2"}) {
		t.Errorf("%q", got)
	}
	if all := (&testFlags{env: []string{"*"}}); !all.carries("GITHUB_TOKEN") {
		t.Error("--env '*' does not carry all")
	}
}
