package vmm

import (
	"sync/atomic"
	"time"
)

// SkipTime returns a function that lets v believe that its process stood still for d. It is to be called before Run.
func SkipTime(v *VM) func(d time.Duration) {
	var skipped atomic.Int64
	v.stops.clock = func() time.Duration { return sinceBoot() + time.Duration(skipped.Load()) }
	return func(d time.Duration) { skipped.Add(int64(d)) }
}
