package lab

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"
)

const envVictim = "STILE_LAB_TEST_VICTIM"

func victim() {}

func TestFirst(t *testing.T) {
	c := testConfig(t)
	for range 4 {
		begin := time.Now()
		h, err := Resume(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		ready := time.Since(begin)
		var out, errb bytes.Buffer
		st, err := h.Run(context.Background(), &Options{Args: []string{"sh", "-c", "uname -r; pwd; ls -la /dev/kvm; echo err >&2; exit 7"}, Dir: "/root", Env: os.Environ(), Stdout: &out, Stderr: &errb})
		t.Logf("ready %v total %v %+v status %v %v %q %q", ready, time.Since(begin), h.Phases(), st, err, out.String(), errb.String())
		begin = time.Now()
		h.Close()
		t.Log("close", time.Since(begin))
	}
}
