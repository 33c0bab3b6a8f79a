package vmtest_test

import (
	"os"
	"testing"
)

// matches reports whether the host has a file of that name in the test's folder.
func matches(t *testing.T, name string) bool {
	t.Helper()
	_, err := os.Stat(name)
	return err == nil
}
