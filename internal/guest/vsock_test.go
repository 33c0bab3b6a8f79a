package guest

import (
	"strings"
	"testing"

	"github.com/stile-vmm/stile/vmm"
)

func TestParseVsock(t *testing.T) {
	for text, want := range map[string]vmm.Vsock{
		"auto":            {CID: 3},
		"7":               {CID: 7},
		"7,path=/a,b":     {CID: 7, Path: "/a,b"},
		"auto,path=/a":    {CID: 3, Path: "/a"},
		"auto,host":       {Host: true},
		"4294967294,host": {CID: 4294967294, Host: true},
	} {
		got, err := ParseVsock(text)
		if err != nil || got.CID != want.CID || got.Path != want.Path || got.Host != want.Host {
			t.Errorf("%q: %+v, %v", text, got, err)
			continue
		}
		again, err := ParseVsock(VsockText(got))
		if err != nil || again.CID != got.CID || again.Path != got.Path || again.Host != got.Host {
			t.Errorf("%q: as text %q, which is %+v, %v", text, VsockText(got), again, err)
		}
	}
	for text, want := range map[string]string{
		"": "auto or 3 to", "2": "auto or 3 to", "4294967295": "auto or 3 to", "-1": "auto or 3 to", "7,path=": "path=PATH and host", "7,hosts": "path=PATH and host",
	} {
		if got, err := ParseVsock(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestVsockPathIsShort(t *testing.T) {
	s := Spec{Vsock: &vmm.Vsock{CID: 7, Path: "/" + strings.Repeat("p", 96)}}
	if _, err := s.vsockOf("id", OnHost); err == nil || !strings.Contains(err.Error(), "has 97 bytes: it may have 96") {
		t.Errorf("%v", err)
	}
	if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "has 97 bytes") {
		t.Errorf("%v", err)
	}
	if err := (Spec{Vsock: &vmm.Vsock{CID: 7, Path: "/nonexistent/socket"}}).Validate(); err == nil || !strings.Contains(err.Error(), "path=/nonexistent/socket: stat") {
		t.Errorf("%v", err)
	}
	s.Vsock.Path = s.Vsock.Path[1:]
	if _, err := s.vsockOf("id", OnHost); err != nil {
		t.Error(err)
	}
}

// The host's AF_VSOCK has no path, and is not to be had in the lab.
func TestHostVsockPlace(t *testing.T) {
	s := Spec{Vsock: &vmm.Vsock{CID: 7, Host: true}}
	if v, err := s.vsockOf("id", OnHost); err != nil || v.Path != "" {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := s.vsockOf("id", InLab); err == nil || !strings.Contains(err.Error(), "in the lab") {
		t.Error(err)
	}
}
