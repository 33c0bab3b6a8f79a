package guest

import (
	"fmt"
	"io"
	"time"
)

// silence is how long something may take before the user learns what it is.
const silence = 2 * time.Second

// slowly does f, and writes to w what it does once that takes longer than silence; w may be nil.
func slowly(w io.Writer, what string, f func() error) error { return after(silence, w, what, f) }

func after(limit time.Duration, w io.Writer, what string, f func() error) error {
	if w == nil {
		return f()
	}
	done, told := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(told)
		timer := time.NewTimer(limit)
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C:
			fmt.Fprintf(w, "stile: %s…\n", what)
		}
	}()
	err := f()
	close(done)
	<-told
	return err
}
