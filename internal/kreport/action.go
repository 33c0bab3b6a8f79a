package kreport

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Action says what a report does to its guest.
type Action string

// The actions.
const (
	Stop   Action = "stop"   // end the guest
	Warn   Action = "warn"   // one line, and the guest goes on
	Ignore Action = "ignore" // the guest goes on
)

// Actions choose by kind. A kind that is not in it has its default: stop for an oops, KASAN's finding and a lockup,
// after which nothing that the kernel does can be trusted; warn for the rest.
type Actions map[Kind]Action

// Of returns what happens at a report of a kind.
func (a Actions) Of(k Kind) Action {
	if action, ok := a[k]; ok {
		return action
	}
	switch k {
	case Panic, Oops, KASAN, Lockup:
		return Stop
	}
	return Warn
}

// ParseActions reads "stop", "warn" or "ignore" for all kinds, or a list of KIND=ACTION; in a list an ACTION alone is for the kinds that
// it does not name. "" is the defaults.
func ParseActions(text string) (Actions, error) {
	actions := make(Actions)
	if text == "" {
		return actions, nil
	}
	named := make(Actions)
	for word := range strings.SplitSeq(text, ",") {
		kind, action, ok := strings.Cut(word, "=")
		if !ok {
			kind, action = "", word
		}
		if a := Action(action); a != Stop && a != Warn && a != Ignore {
			return nil, fmt.Errorf("unknown action %q: expected %s, %s or %s, or KIND=ACTION,…", action, Stop, Warn, Ignore)
		}
		switch {
		case !ok:
			for _, k := range Chosen() {
				actions[k] = Action(action)
			}
		case !slices.Contains(Chosen(), Kind(kind)):
			return nil, fmt.Errorf("unknown kind %q of kernel report: expected %s", kind, kindNames())
		default:
			named[Kind(kind)] = Action(action)
		}
	}
	maps.Copy(actions, named)
	return actions, nil
}

func kindNames() string {
	names := make([]string, 0, len(Chosen()))
	for _, k := range Chosen() {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}
