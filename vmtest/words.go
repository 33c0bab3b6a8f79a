package vmtest

import "regexp"

// goNames are what a test sets in place of a flag of stile run.
var goNames = map[string]string{
	"--on": envOn, "-k": "Config.Kernel", "--kernel": "Config.Kernel", "--modules": "Config.Modules", "-a": "Config.Append", "--append": "Config.Append",
	"-c": "Config.CPUs", "--cpus": "Config.CPUs", "-m": "Config.Memory", "--memory": "Config.Memory", "--root": "Config.Root",
	"--ro": "Config.Folders", "--rw": "Config.Folders", "--cow": "Config.Folders", "--disk": "Config.Disks", "--net": "Config.Net",
	"--vsock": "Config.Vsock", "--balloon": "Config.Balloon", "--boot-timeout": "Config.Timeout", "--power-off": "Config.PowerOff",
	"--device": "Config.Devices", "--topology": "Config.Topology", "--lab-kernel": "Config.LabKernel",
}

// flagWord is a flag as errors name it, with what stands before it.
var flagWord = regexp.MustCompile(`(^|[\s("])(--?[a-z][a-z-]*)( (?:auto|host|lab)\b)?`)

// goError is an error that names what a test can set, and not the flags of the command.
type goError struct{ error }

// inGo returns err in the words of a test.
func inGo(err error) error {
	if err == nil || goWords(err.Error()) == err.Error() {
		return err
	}
	return goError{err}
}

func (e goError) Error() string { return goWords(e.error.Error()) }
func (e goError) Unwrap() error { return e.error }

func goWords(text string) string {
	return flagWord.ReplaceAllStringFunc(text, func(match string) string {
		parts := flagWord.FindStringSubmatch(match)
		name, ok := goNames[parts[2]]
		switch {
		case !ok:
			return match
		case name == envOn && parts[3] != "":
			return parts[1] + name + "=" + parts[3][1:]
		}
		return parts[1] + name + parts[3]
	})
}
