package agentproto

import (
	"io"
	"strings"
	"testing"
)

var (
	someHash = strings.Repeat("0a", 32)
	someSeed = strings.Repeat("5e", 32)
)

// TestLabLines holds stage 0 to what machines saved by earlier releases say. It changes with the version alone.
func TestLabLines(t *testing.T) {
	if got, want := LabLine(someHash), "STILE-LAB 2 "+someHash+"\n"; got != want {
		t.Errorf("LabLine = %q, want %q", got, want)
	}
	line := RunLine{Hash: someHash, Size: 12, Checksum: 0xabc, Seed: Seed([]byte(strings.Repeat("\x5e", 32)))}
	if got, want := line.String(), "RUN "+someHash+" 12 0000000000000abc "+someSeed+"\n"; got != want {
		t.Errorf("RunLine = %q, want %q", got, want)
	}
	r := strings.NewReader(LabLine(someHash) + line.String() + "binary")
	if hash, err := ReadLabLine(r); err != nil || hash != someHash {
		t.Errorf("ReadLabLine: %q, %v", hash, err)
	}
	if got, err := ReadRunLine(r); err != nil || got != line {
		t.Errorf("ReadRunLine: %v, %v", got, err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "binary" {
		t.Errorf("after the lines %q is left", rest)
	}
}

func TestLabLinesRefused(t *testing.T) {
	for _, line := range []string{
		"\n", "STILE-LAB\n", "STILE-LAB 1 " + someHash + "\n", "STILE-LAB 2 xyz\n", "STILE-LAB 2 " + strings.ToUpper(someHash) + "\n",
		"STILE-LAB 2 " + someHash, strings.Repeat("x", 1000),
	} {
		if _, err := ReadLabLine(strings.NewReader(line)); err == nil {
			t.Errorf("accepted %q", line)
		}
	}
	for _, line := range []string{
		"\n", "RUN\n", "RUN " + someHash + " -1 0 " + someSeed + "\n", "RUN " + someHash + " 99999999999 0 " + someSeed + "\n",
		"RUN " + someHash + "  0 " + someSeed + "\n", "RUN " + someHash[1:] + " 1 0 " + someSeed + "\n",
		"run " + someHash + " 1 0 " + someSeed + "\n", "RUN " + someHash + " 1 2 3 " + someSeed + "\n",
		"RUN " + someHash + " 1 xyz " + someSeed + "\n", "RUN " + someHash + " 1 0\n", "RUN " + someHash + " 1 0 \n",
		"RUN " + someHash + " 1 0 " + someSeed[2:] + "\n", "RUN " + someHash + " 1 0 " + someSeed + "00\n",
		"RUN " + someHash + " 1 0 " + someSeed[1:] + "x\n",
	} {
		if _, err := ReadRunLine(strings.NewReader(line)); err == nil {
			t.Errorf("accepted %q", line)
		}
	}
}

func FuzzLabLines(f *testing.F) {
	f.Add(LabLine(someHash))
	f.Add(RunLine{Hash: someHash, Size: 5, Checksum: 6, Seed: Seed{7}}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if hash, err := ReadLabLine(strings.NewReader(s)); err == nil && !strings.HasPrefix(s, LabLine(hash)) {
			t.Errorf("%q was read as %q", s, hash)
		}
		if line, err := ReadRunLine(strings.NewReader(s)); err == nil && (line.Size < 0 || line.Size > MaxRunSize) {
			t.Errorf("%q was read as %v", s, line)
		}
	})
}
