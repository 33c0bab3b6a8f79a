package agent

import "testing"

func TestModuleParams(t *testing.T) {
	const cmdline = "console=ttyS0 kvm_amd.nested=0 kvm-amd.npt=1 kvm.x=2 quiet a.b.c=d"
	for path, want := range map[string]string{
		"/lib/modules/kvm_amd.ko": "nested=0 npt=1", "/lib/modules/kvm-amd.ko": "nested=0 npt=1", "/lib/modules/kvm.ko": "x=2",
		"/lib/modules/a.ko": "b.c=d", "/lib/modules/console.ko": "",
	} {
		if got := moduleParams(cmdline, path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
