package modprobe

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// options are modprobe's.
type options struct {
	all, remove, quiet, dryRun, resolve, showDepends, showConfig bool
	ignoreCommands, blacklist, firstTime, version, help          bool
	verbose                                                      int
	force                                                        int // flags of finit_module(2)
	configs                                                      []string
	root, release                                                string
	rest                                                         []string // a module and its parameters, or with all or remove modules
}

// set sets an option. It returns false for one that is not known.
func (o *options) set(name, value string) bool {
	switch name {
	case "a", "all":
		o.all = true
	case "r", "remove", "remove-dependencies", "remove-holders":
		o.remove = true
	case "q", "quiet":
		o.quiet = true
	case "v", "verbose":
		o.verbose++
	case "n", "dry-run", "show":
		o.dryRun = true
	case "R", "resolve-alias":
		o.resolve = true
	case "D", "show-depends":
		o.showDepends, o.dryRun = true, true
	case "c", "showconfig", "show-config":
		o.showConfig = true
	case "i", "ignore-install", "ignore-remove":
		o.ignoreCommands = true
	case "b", "use-blacklist":
		o.blacklist = true
	case "first-time":
		o.firstTime = true
	case "f", "force":
		o.force = unix.MODULE_INIT_IGNORE_MODVERSIONS | unix.MODULE_INIT_IGNORE_VERMAGIC
	case "force-modversion":
		o.force |= unix.MODULE_INIT_IGNORE_MODVERSIONS
	case "force-vermagic":
		o.force |= unix.MODULE_INIT_IGNORE_VERMAGIC
	case "C", "config":
		o.configs = append(o.configs, value)
	case "d", "dirname":
		o.root = value
	case "S", "set-version":
		o.release = value
	case "V", "version":
		o.version = true
	case "h", "help":
		o.help = true
	case "s", "syslog", "w", "wait": // messages go to the standard error; nothing waits for a module that is in use
	default:
		return false
	}
	return true
}

// takesValue reports whether an option has a value.
func takesValue(name string) bool {
	return slices.Contains([]string{"C", "config", "d", "dirname", "S", "set-version", "w", "wait"}, name)
}

// parseOptions takes arguments as getopt_long(3) does: options may stand anywhere before "--", short ones in one word.
func parseOptions(args []string) (*options, error) {
	o := &options{}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		var err error
		switch {
		case arg == "--":
			o.rest = append(o.rest, args...)
			return o, nil
		case strings.HasPrefix(arg, "--"):
			args, err = o.long(arg[2:], args)
		case len(arg) > 1 && arg[0] == '-':
			args, err = o.short(arg[1:], args)
		default:
			o.rest = append(o.rest, arg)
		}
		if err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (o *options) long(arg string, more []string) ([]string, error) {
	name, value, given := strings.Cut(arg, "=")
	if takesValue(name) && !given {
		if len(more) == 0 {
			return nil, fmt.Errorf("option --%s needs a value", name)
		}
		value, more = more[0], more[1:]
	} else if given && !takesValue(name) {
		return nil, fmt.Errorf("option --%s takes no value", name)
	}
	if len(name) < 2 || !o.set(name, value) {
		return nil, fmt.Errorf("unknown option --%s; see modprobe --help", name)
	}
	return more, nil
}

func (o *options) short(letters string, more []string) ([]string, error) {
	for i := range len(letters) {
		name, value := letters[i:i+1], ""
		if takesValue(name) {
			value = letters[i+1:]
			if value == "" {
				if len(more) == 0 {
					return nil, fmt.Errorf("option -%s needs a value", name)
				}
				value, more = more[0], more[1:]
			}
		}
		if !o.set(name, value) {
			return nil, fmt.Errorf("unknown option -%s; see modprobe --help", name)
		}
		if takesValue(name) {
			break
		}
	}
	return more, nil
}

// params joins a module's parameters as the kernel takes them apart: a value with blanks in quotes.
func params(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		name, value, ok := strings.Cut(word, "=")
		if ok && strings.Contains(value, " ") && !strings.HasPrefix(value, `"`) && !strings.HasPrefix(value, "'") {
			word = name + `="` + value + `"`
		}
		quoted[i] = word
	}
	return strings.Join(quoted, " ")
}

const usage = `modprobe [OPTION]... MODULE [PARAMETER]...
modprobe [OPTION]... -a|-r MODULE...

Loads a kernel module, or what a name such as fs-xfs stands for, with what it needs. This is the one
that stile gives to guests whose root has none.

  -a, --all                all arguments are modules
  -r, --remove             unload, also what is not used any more then
  -R, --resolve-alias      print what modules a name stands for
  -D, --show-depends       print what would be loaded
  -n, --dry-run, --show    do nothing, with -v print what would be done
  -c, --showconfig         print the configuration and all aliases
  -q, --quiet              no messages
  -v, --verbose            print what is done
  -i, --ignore-install     pass over install and remove commands of modprobe.d
  -b, --use-blacklist      the blacklist counts for names of modules, too
      --first-time         a module that is loaded (with -r: that is not) is an error
  -f, --force              pass over the kernel's version and checksums
  -C, --config FILE        instead of /etc/modprobe.d and its like
  -d, --dirname DIR        where lib/modules is
  -S, --set-version VER    instead of the running kernel's release
`
