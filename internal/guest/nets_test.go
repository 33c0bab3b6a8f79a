package guest

import (
	"strings"
	"testing"
)

// In the lab there are no interfaces of this host. Networks that were made before that was found are gone.
func TestLabNets(t *testing.T) {
	_, err := openNets(Spec{Nets: []string{"user", "tap=tap0"}})
	if err == nil || !strings.Contains(err.Error(), "--net tap=tap0: a guest in the lab can't have") {
		t.Errorf("%v", err)
	}
	nets, err := openNets(Spec{Nets: []string{"user"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := nets.close(); err != nil {
		t.Error(err)
	}
}
