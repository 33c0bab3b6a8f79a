package vhost

import (
	"testing"

	"github.com/stile-vmm/stile/internal/uapi/golden"
)

const goldenFile = "testdata/facts.golden"

func TestGoldenFileIsWhatTheHeadersSay(t *testing.T) {
	golden.Program(t, "testdata/facts.c", goldenFile)
}

func TestABI(t *testing.T) {
	facts := golden.Facts{}
	for _, l := range []struct {
		cname string
		value any
		names string
	}{
		{"vhost_memory", Memory{}, "nregions"},
		{"vhost_memory_region", MemoryRegion{}, "guest_phys_addr memory_size userspace_addr"},
		{"vhost_vring_state", VringState{}, "index num"},
		{"vhost_vring_file", VringFile{}, "index fd"},
		{"vhost_vring_addr", VringAddr{}, "index flags desc_user_addr used_user_addr avail_user_addr log_guest_addr"},
	} {
		if err := facts.Struct(l.cname, l.value, l.names); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]uint64{
		"VHOST_GET_FEATURES":        GetFeatures,
		"VHOST_SET_FEATURES":        SetFeatures,
		"VHOST_SET_OWNER":           SetOwner,
		"VHOST_SET_MEM_TABLE":       SetMemTable,
		"VHOST_SET_VRING_NUM":       SetVringNum,
		"VHOST_SET_VRING_ADDR":      SetVringAddr,
		"VHOST_SET_VRING_BASE":      SetVringBase,
		"VHOST_SET_VRING_KICK":      SetVringKick,
		"VHOST_SET_VRING_CALL":      SetVringCall,
		"VHOST_VSOCK_SET_GUEST_CID": VsockSetGuestCID,
		"VHOST_VSOCK_SET_RUNNING":   VsockSetRunning,
	} {
		facts[name] = value
	}
	golden.Check(t, goldenFile, facts)
}
