package vmtest

import (
	"bufio"
	"os"
	"strings"
)

// testLog is what a test binary in a guest has looked at: variables and files. The go command caches a result
// until one of them changes. For it to know, the same things are looked at here.
type testLog struct{ path string }

func newTestLog() (*testLog, error) {
	f, err := os.CreateTemp("", "stile-testlog-*")
	if err != nil {
		return nil, err
	}
	return &testLog{f.Name()}, f.Close()
}

func (l *testLog) remove() { _ = os.Remove(l.path) } // in a folder for temporary files

// replay looks at what the guest has looked at. The format is that of internal/testlog, a verb and a name each line.
func (l *testLog) replay() {
	f, err := os.Open(l.path)
	if err != nil {
		return
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		verb, name, _ := strings.Cut(lines.Text(), " ")
		switch verb {
		case "getenv":
			os.Getenv(name)
		case "stat":
			_, _ = os.Stat(name)
		case "open":
			// Only what can be opened without waiting for somebody or doing something.
			if info, err := os.Stat(name); err == nil && (info.Mode().IsRegular() || info.IsDir()) {
				if f, err := os.Open(name); err == nil {
					f.Close()
				}
			}
		}
	}
}
