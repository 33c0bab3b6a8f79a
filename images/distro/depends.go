package distro

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// dependency is a package that another one needs.
type dependency struct {
	name    string
	version string // the very version that is needed, "" when others will do
}

var relation = regexp.MustCompile(`^([a-z0-9][a-z0-9.+-]+)(?::[a-z0-9-]+)?(?: *\( *([<>=]+) *([0-9][0-9A-Za-z.+:~-]*) *\))?`)

// parseDepends reads a Depends field (Debian policy 7.1): the packages that are needed, each with its alternatives.
func parseDepends(field string) (needed [][]dependency) {
	for group := range strings.SplitSeq(field, ",") {
		var alternatives []dependency
		for text := range strings.SplitSeq(group, "|") {
			m := relation.FindStringSubmatch(strings.TrimSpace(text))
			if m == nil {
				continue
			}
			d := dependency{name: m[1]}
			if m[2] == "=" {
				d.version = m[3]
			}
			alternatives = append(alternatives, d)
		}
		if len(alternatives) > 0 {
			needed = append(needed, alternatives)
		}
	}
	return needed
}

// maxParts bounds how many packages belong together. Debian's kernels are in four, and one more names the newest.
const maxParts = 8

// unpackAll downloads a package and unpacks it into dir, and with it all that it depends on, directly or not, as far
// as the names match part.
func (a *apt) unpackAll(ctx context.Context, p *pkg, dir string, part *regexp.Regexp, extract func(deb *os.File) error) error {
	known := []string{p.name}
	for packages := []*pkg{p}; len(packages) > 0; packages = packages[1:] {
		next := packages[0]
		if err := a.unpack(ctx, next, dir, extract); err != nil {
			return err
		}
		for _, alternatives := range next.depends {
			needed, err := a.choose(ctx, next, alternatives, part, known)
			if err != nil {
				return err
			}
			if needed == nil {
				continue
			}
			if known = append(known, needed.name); len(known) > maxParts {
				return fmt.Errorf("%s depends on more packages than is credible", p)
			}
			packages = append(packages, needed)
		}
	}
	return nil
}

// choose returns the first of several packages, of which p needs one, that apt has: nil when they don't match part, or
// one of them is known already.
func (a *apt) choose(ctx context.Context, p *pkg, alternatives []dependency, part *regexp.Regexp, known []string) (*pkg, error) {
	isKnown := func(d dependency) bool { return slices.Contains(known, d.name) }
	if slices.ContainsFunc(alternatives, isKnown) {
		return nil, nil
	}
	var lacking string
	for _, d := range alternatives {
		if !part.MatchString(d.name) {
			continue
		}
		found, err := a.show(ctx, d.name, d.version)
		if found != nil || err != nil {
			return found, err
		}
		if lacking == "" {
			lacking = strings.TrimSpace(d.name + " " + d.version)
		}
	}
	if lacking == "" {
		return nil, nil
	}
	return nil, fmt.Errorf("%s depends on %s, which apt does not have", p, lacking)
}
