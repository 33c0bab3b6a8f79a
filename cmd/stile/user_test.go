package main

import (
	"io/fs"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stile-vmm/stile/internal/agentproto"
)

func TestLookupUser(t *testing.T) {
	root := fstest.MapFS{
		"etc/passwd": {Data: []byte("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:100:A:/home/alice:/bin/sh\nbad:x:one:two:::\nshort:x\n")},
		"etc/group":  {Data: []byte("users:x:100:\nkvm:x:78:bob,alice\nvideo:x:44:alice\nodd:x:no:alice\n")},
	}
	alice := []string{"HOME=/home/alice", "USER=alice", "LOGNAME=alice"}
	for text, want := range map[string]account{
		"alice":      {agentproto.User{UID: 1000, GID: 100, Groups: []uint32{78, 44}}, alice},
		"1000":       {agentproto.User{UID: 1000, GID: 100, Groups: []uint32{78, 44}}, alice},
		"alice:7":    {agentproto.User{UID: 1000, GID: 7, Groups: []uint32{78, 44}}, alice},
		"65534":      {agentproto.User{UID: 65534, GID: 65534}, nil},
		"65534:8":    {agentproto.User{UID: 65534, GID: 8}, nil},
		"4294967295": {agentproto.User{UID: 4294967295, GID: 4294967295}, nil},
	} {
		got, err := lookupUser(root, text)
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"bob", "bad", "short", "-1", "4294967296", "alice:", "alice:users", ":"} {
		if got, err := lookupUser(root, text); err == nil || !strings.Contains(err.Error(), "--user "+text) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, none := range []fs.FS{nil, fstest.MapFS{}} {
		if got, err := lookupUser(none, "5"); err != nil || got.user.UID != 5 {
			t.Errorf("without etc/passwd: %+v, %v", got, err)
		}
	}
}
