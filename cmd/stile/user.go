package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/guest"
)

// account is who a command runs as in the guest.
type account struct {
	user agentproto.User
	env  []string // HOME, USER and LOGNAME; none for a number that etc/passwd does not know
}

// lookupUser resolves NAME, UID or UID:GID by the etc/passwd and etc/group below root, as the guest would. root is nil for a
// guest that has no such files.
func lookupUser(root fs.FS, text string) (*account, error) {
	name, group, hasGroup := strings.Cut(text, ":")
	fields, err := lookupFields(root, "etc/passwd", func(f []string) bool { return len(f) >= 7 && (f[0] == name || f[2] == name) })
	if err != nil {
		return nil, fmt.Errorf("--user %s: %w", text, err)
	}
	if fields == nil {
		fields = []string{"", "", name, name, "", "", ""} // a number, with the group of the same
	}
	if hasGroup {
		fields[3] = group
	}
	uid, uidErr := strconv.ParseUint(fields[2], 10, 32)
	gid, gidErr := strconv.ParseUint(fields[3], 10, 32)
	if uidErr != nil || gidErr != nil {
		return nil, fmt.Errorf("--user %s: the guest's /etc/passwd has no such user; give UID or UID:GID", text)
	}
	a := &account{user: agentproto.User{UID: uint32(uid), GID: uint32(gid)}}
	if login := fields[0]; login != "" {
		a.env = []string{"HOME=" + fields[5], "USER=" + login, "LOGNAME=" + login}
		a.user.Groups, err = groupsOf(root, login)
	}
	return a, err
}

// groupsOf returns the supplementary groups of a user.
func groupsOf(root fs.FS, login string) ([]uint32, error) {
	var groups []uint32
	_, err := lookupFields(root, "etc/group", func(f []string) bool {
		if len(f) >= 4 && slices.Contains(strings.Split(f[3], ","), login) {
			if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				groups = append(groups, uint32(gid))
			}
		}
		return false
	})
	return groups, err
}

// lookupFields returns the first line's fields for which match is true, nil if there is none or no such file.
func lookupFields(root fs.FS, name string, match func([]string) bool) ([]string, error) {
	if root == nil {
		return nil, nil
	}
	f, err := root.Open(name)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if fields := strings.Split(lines.Text(), ":"); match(fields) {
			return fields, nil
		}
	}
	return nil, lines.Err()
}

// account returns who the command runs as, nil for root.
func (f *runFlags) account() (*account, error) {
	if f.user == "" {
		return nil, nil
	}
	switch f.spec.Root {
	case guest.RootHost:
		return lookupUser(os.DirFS("/"), f.user)
	case guest.RootNone, guest.RootURoot:
		return lookupUser(nil, f.user)
	}
	return lookupUser(os.DirFS(f.spec.Root), f.user)
}
