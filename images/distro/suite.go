package distro

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	// A distribution's name may stand before a version.
	distributionName = regexp.MustCompile(`^(?:debian|ubuntu):`)
	suiteOf          = regexp.MustCompile(`^([^@]*)(?:@([a-z][a-z0-9-]*))?$`)
)

// splitSuite splits what a user names, "6.12", "debian:6.12" or "7.2@sid", into a version or a package's name, and the
// suite of the distribution that it is to come from: "" for those that this system takes packages from.
func splitSuite(named string) (version, suite string, err error) {
	m := suiteOf.FindStringSubmatch(distributionName.ReplaceAllString(named, ""))
	if m == nil {
		return "", "", fmt.Errorf("invalid kernel version %q: expected one such as 6.12, or 7.2@sid from another suite of the distribution", named)
	}
	return m[1], m[2], nil
}

// archive is where the distribution's packages come from.
type archive struct {
	uri    string
	origin string // "Debian", "Ubuntu"
}

// useSuite has apt work on one suite of the distribution's archive, with lists of packages of its own in dir: the
// system's are neither changed nor asked, and no privileges are needed.
func (a *apt) useSuite(ctx context.Context, suite, dir string) error {
	from, err := a.archive(ctx)
	if err != nil {
		return fmt.Errorf("suite %s: %w", suite, err)
	}
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	sources := filepath.Join(dir, "sources.list")
	if err := os.WriteFile(sources, []byte(from.source(suite)), 0o644); err != nil {
		return err
	}
	a.suite, a.updated = suite, false
	a.options = []string{
		"-o", "Dir::State=" + filepath.Join(dir, "state"),
		"-o", "Dir::State::status=/dev/null",
		"-o", "Dir::Cache=" + filepath.Join(dir, "cache"),
		"-o", "Dir::Etc::sourcelist=" + sources,
		"-o", "Dir::Etc::sourceparts=/dev/null",
		"-o", "Dir::Etc::preferences=/dev/null",
		"-o", "Dir::Etc::preferencesparts=/dev/null",
		"-o", "APT::Update::Error-Mode=any",
		"-o", "APT::Update::Post-Invoke=", "-o", "APT::Update::Post-Invoke-Success=",
		"-o", "Acquire::Languages=none",
		"-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
	}
	return nil
}

// archive returns where this system's packages of the distribution itself come from.
func (a *apt) archive(ctx context.Context) (archive, error) {
	const format = "$(ORIGIN)\t$(LABEL)\t$(COMPONENT)\t$(REPO_URI)"
	for {
		out, err := a.run(ctx, "", "apt-get", "indextargets", "--format", format, "Created-By: Packages")
		if err != nil {
			return archive{}, fmt.Errorf("list the sources of packages: %w", err)
		}
		if found, ok := parseArchive(string(out)); ok {
			return found, nil
		}
		if a.updated || !a.root {
			return archive{}, errors.New("apt's sources name no archive of Debian or Ubuntu that it has lists of packages from: " +
				"run apt-get update, or leave out the suite")
		}
		if err := a.update(ctx); err != nil {
			return archive{}, err
		}
	}
}

var archiveURI = regexp.MustCompile(`^[a-z][a-z0-9+]*:[!-~]+$`)

// parseArchive reads lines with an origin, a label, a component and a URI. Archives of other packages, such as
// security's, have a label that differs from the origin.
func parseArchive(targets string) (archive, bool) {
	for line := range strings.Lines(targets) {
		field := strings.Split(strings.TrimSpace(line), "\t")
		if len(field) != 4 || field[0] != field[1] || field[2] != "main" || !archiveURI.MatchString(field[3]) {
			continue
		}
		if field[0] == "Debian" || field[0] == "Ubuntu" {
			return archive{origin: field[0], uri: field[3]}, true
		}
	}
	return archive{}, false
}

// source is a line of sources.list(5).
func (r archive) source(suite string) string {
	keys := "/usr/share/keyrings/" + strings.ToLower(r.origin) + "-archive-keyring.gpg"
	option := ""
	if _, err := os.Stat(keys); err == nil {
		option = "[signed-by=" + keys + "] "
	}
	return "deb " + option + r.uri + " " + suite + " main\n"
}
