// Package whole has tests that all run in a VM.
package whole

import "os"

// Privileged reports whether this process may do anything.
func Privileged() bool { return os.Geteuid() == 0 }
