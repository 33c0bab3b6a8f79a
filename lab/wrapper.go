package lab

import (
	"context"
	"io"
	"os"
	"time"
)

// wrapperLimit is how long a script may take to say its QEMU's version.
const wrapperLimit = 10 * time.Second

// addWrapped adds to a script's identity the version of the QEMU that it starts. What a script that fails says
// comes with the first start.
func (q *QEMU) addWrapped() {
	if !isScript(q.Path) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), wrapperLimit)
	defer cancel()
	if version, err := q.Version(ctx); err == nil {
		q.Identity += " runs " + version.String()
	}
}

func isScript(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	start := make([]byte, 2)
	_, err = io.ReadFull(f, start)
	return err == nil && string(start) == "#!"
}
