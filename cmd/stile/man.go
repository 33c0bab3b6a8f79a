package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func newManCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the man pages into a folder",
		Long: `man writes a page for each command into DIR, from what --help prints. Copy them to
a man1 folder of your MANPATH, or read one in place.`,
		Example: `  stile man ~/.local/share/man/man1
  man ~/.local/share/man/man1/stile-run.1`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("man pages: %w", err)
			}
			header := &doc.GenManHeader{Title: "STILE", Section: "1", Source: "stile " + versionString(), Manual: "stile"}
			c.Root().DisableAutoGenTag = true // no date of the day: the same source makes the same pages
			if err := doc.GenManTree(c.Root(), header, args[0]); err != nil {
				return fmt.Errorf("man pages in %s: %w", args[0], err)
			}
			return nil
		},
	}
}
