package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/lab"
)

// pruneAge is how long something in the cache was not used that is removed without a flag.
const pruneAge = 7 * 24 * time.Hour

const pruneHelp = `Remove from stile's cache what was not used for a week, or for the time that --unused-for gives, and
print what that was. --all removes everything but lab states that run. --dry-run removes nothing and prints
what would go. All of it is made again when it is needed.`

type pruneFlags struct {
	unused time.Duration
	all    bool
	dryRun bool
}

func newImagePruneCommand() *cobra.Command {
	f := &pruneFlags{}
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove from the cache what was not used for a week",
		Long:  pruneHelp,
		Example: `  stile image prune --dry-run
  stile image prune --unused-for 720h
  stile image prune --all`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.all && c.Flags().Changed("unused-for") {
				return errors.New("--all and --unused-for cannot be combined")
			}
			if f.unused < 0 {
				return fmt.Errorf("--unused-for %v: the time is negative", f.unused)
			}
			if f.all {
				f.unused = 0
			}
			return f.prune(c.Context(), c.OutOrStdout())
		},
	}
	c.Flags().DurationVar(&f.unused, "unused-for", pruneAge, "remove what was not used for this `TIME`, such as 720h")
	c.Flags().BoolVar(&f.all, "all", false, "remove what was used lately, too")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print what would be removed, and remove nothing")
	return c
}

// prune removes what is old and writes to w what that was.
func (f *pruneFlags) prune(ctx context.Context, w io.Writer) error {
	caches, err := images.OpenAll()
	if err != nil {
		return err
	}
	store, err := openLabStore()
	if err != nil {
		return err
	}
	before, err := listCached()
	if err != nil {
		return err
	}
	states, keep, err := f.oldStates(store)
	if err != nil {
		return err
	}
	var entries []images.Entry
	for _, cache := range caches {
		gone, failure := cache.Unused(f.unused)
		if !f.dryRun && failure == nil {
			gone, failure = cache.Prune(ctx, f.unused)
		}
		entries, err = append(entries, gone...), errors.Join(err, failure)
	}
	if !f.dryRun && err == nil {
		_, err = store.Prune(ctx, keep)
	}
	f.report(w, entries, states, len(before))
	return err
}

// oldStates returns the lab's states that go, and how many of the most recently used ones stay at least.
func (f *pruneFlags) oldStates(store *lab.Store) (old []lab.State, keep int, err error) {
	states, err := store.List()
	for _, s := range states {
		if f.unused > 0 && time.Since(s.Used) < f.unused {
			keep++
		} else if !s.InUse {
			old = append(old, s)
		}
	}
	return old, keep, err
}

// report writes what was removed of so many things.
func (f *pruneFlags) report(w io.Writer, entries []images.Entry, states []lab.State, before int) {
	verb, sum := "removed", "freed"
	if f.dryRun {
		verb, sum = "would remove", "would free"
	}
	var size int64
	for _, e := range entries {
		size += e.Size
		fmt.Fprintf(w, "%s %s %s, %s, last used %s\n", verb, e.Kind, e.Key, roundSize(e.Size), e.LastUse.Format(time.DateTime))
	}
	for _, s := range states {
		size += s.Disk
		fmt.Fprintf(w, "%s lab %s, %s, last used %s\n", verb, s.Key, roundSize(s.Disk), s.Used.Format(time.DateTime))
	}
	gone := len(entries) + len(states)
	fmt.Fprintf(w, "%s %s: %d of %d things", sum, roundSize(size), gone, before)
	if kept := before - gone; kept > 0 && !f.all {
		fmt.Fprintf(w, "; the others were used within %v (--all removes them, too)", f.unused)
	}
	fmt.Fprintln(w)
}
