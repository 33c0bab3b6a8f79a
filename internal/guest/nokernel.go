package guest

import (
	"os"
	"path/filepath"
)

// NoKernelError says that there is no kernel to boot where one was named: it was not built, or not with what a guest needs, or can't be
// fetched. A name that is no kernel's at all has another error.
type NoKernelError struct{ Err error }

func (e *NoKernelError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *NoKernelError) Unwrap() error { return e.Err }

// noKernel marks err as a NoKernelError if the kernel's place is there.
func (s Spec) noKernel(err error) error {
	if err == nil {
		return nil
	}
	if s.kernelIsPath() {
		if _, statErr := os.Stat(filepath.Dir(s.Kernel)); statErr != nil {
			return err
		}
	}
	return &NoKernelError{err}
}
