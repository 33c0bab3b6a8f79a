package main

import (
	"strings"
	"testing"
)

func TestLackHint(t *testing.T) {
	for command, want := range map[string]string{
		"unshare -r id":                   "CONFIG_USER_NS",
		"unshare -Ur true":                "CONFIG_USER_NS",
		"unshare --mount --user true":     "CONFIG_USER_NS",
		"unshare -m true":                 "",
		"cat /sys/fs/cgroup/x/memory.max": "CONFIG_MEMCG",
		"bpftool prog":                    "CONFIG_DEBUG_INFO_BTF",
		"modprobe dummy":                  "built without",
		"cat /sys/kernel/mm/transparent_hugepage/enabled":         "TRANSPARENT_HUGEPAGE",
		"echo function_graph >/sys/kernel/tracing/current_tracer": "FUNCTION_TRACER",
		"sysctl kernel.hung_task_timeout_secs":                    "HUNG_TASK",
		"make check":                                              "",
		"grep memory.txt":                                         "",
	} {
		f := &runFlags{args: []string{"sh", "-c", command}}
		if got := f.lackHint(1); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
		f.spec.Kernel = "6.12"
		if got := f.lackHint(1); got != "" {
			t.Errorf("with another kernel: %q", got)
		}
		f.spec.Kernel = "default"
		if got := f.lackHint(0); got != "" {
			t.Errorf("after a success: %q", got)
		}
	}
}
