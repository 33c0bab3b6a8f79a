package main

import (
	"fmt"
	"regexp"

	"github.com/stile-vmm/stile/internal/guest"
)

// lack is something that the default kernel has not, and by what a command shows that it wants it.
type lack struct {
	what   string
	option string
	signs  *regexp.Regexp
}

// lacks are those of docs/kernels.md.
func lacks() []lack {
	return []lack{
		{"user namespaces", "CONFIG_USER_NS", regexp.MustCompile(`\bunshare\b.*(\s-\w*[Ur]|--user|--map-)|\b(bwrap|podman|rootlesskit|newuidmap|max_user_namespaces)\b|uid_map`)},
		{"memory control group", "CONFIG_MEMCG", regexp.MustCompile(`\bmemory\.(max|high|low|min|current|events|stat)\b|MemoryMax=`)},
		{"BTF", "CONFIG_DEBUG_INFO_BTF", regexp.MustCompile(`\b(bpftool|bpftrace)\b|kernel/btf`)},
		{"function tracer", "CONFIG_FUNCTION_TRACER", regexp.MustCompile(`\b(function_graph|set_ftrace_filter|available_filter_functions|trace-cmd|funcgraph|funccount)\b`)},
		{"transparent huge pages", "CONFIG_TRANSPARENT_HUGEPAGE", regexp.MustCompile(`transparent_hugepage|\bthp\b`)},
		{"detector of hung tasks", "CONFIG_DETECT_HUNG_TASK", regexp.MustCompile(`\bhung_task_`)},
		{"module", "it is built without any", regexp.MustCompile(`\b(modprobe|insmod)\b`)},
	}
}

// lackHint returns what a command that failed in a guest with the default kernel may have missed there, "" for nothing that is known.
func (f *runFlags) lackHint(status int) string {
	if status == 0 || f.spec.Kernel != "" && f.spec.Kernel != guest.KernelDefault {
		return ""
	}
	text := ""
	for _, arg := range f.args {
		text += arg + " "
	}
	for _, l := range lacks() {
		if l.signs.MatchString(text) {
			return fmt.Sprintf("the default kernel has no %s (%s), which this command may need: see docs/kernels.md; -k debian:6.12 has", l.what, l.option)
		}
	}
	return ""
}
