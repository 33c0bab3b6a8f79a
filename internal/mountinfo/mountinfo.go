// Package mountinfo reads /proc/PID/mountinfo (proc(5)).
package mountinfo

import "strings"

// Mount is a line of it.
type Mount struct {
	ID     string // what /proc/PID/fdinfo calls mnt_id
	Device string // MAJOR:MINOR
	Target string // where it is mounted, as the kernel writes it: see Path
	Type   string // of the file system
	Source string // "" if the line has none
}

// Parse returns the mounts in the order in which they were made. Lines of another form are left out.
func Parse(text string) []Mount {
	var list []Mount
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ") // behind optional fields
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) == 0 {
			continue
		}
		m := Mount{ID: left[0], Device: left[2], Target: left[4], Type: right[0]}
		if len(right) > 1 {
			m.Source = right[1]
		}
		list = append(list, m)
	}
	return list
}

// unescape reads the characters that would end a field.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")

// Path returns the target as a path.
func (m Mount) Path() string { return unescape.Replace(m.Target) }
