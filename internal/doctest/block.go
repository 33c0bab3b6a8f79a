package doctest

import (
	"fmt"
	"slices"
	"strings"
)

// Block is a code block of a document.
type Block struct {
	Path     string // the document
	Line     int    // of the fence, from 1 on
	Language string
	Text     string
	Marks    []Mark
}

// Commands is a command of a block, with what the document shows of its output.
type Command struct {
	Line   int // in the document
	Text   string
	Output string // "" if none is shown

	Kind     Kind
	Argument string
	More     []Mark // modifiers
}

const (
	markStart = "<!-- test:"
	markEnd   = "-->"
	fence     = "```"
)

// Markdown returns a document's code blocks.
func Markdown(path, text string) ([]Block, error) {
	var found []Block
	var marks []Mark
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		line := strings.TrimSpace(lines[i])
		switch {
		case strings.HasPrefix(line, markStart):
			end := i
			for end < len(lines) && !strings.Contains(lines[end], markEnd) {
				end++
			}
			if end == len(lines) {
				return nil, fmt.Errorf("%s:%d: the comment has no end", path, i+1)
			}
			comment := strings.Join(lines[i:end+1], "\n")
			comment = comment[strings.Index(comment, markStart)+len(markStart):]
			comment, _, _ = strings.Cut(comment, markEnd)
			var err error
			if marks, err = parseMarks(comment); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
			}
			i = end
		case strings.HasPrefix(line, fence):
			end := i + 1
			for end < len(lines) && strings.TrimSpace(lines[end]) != fence {
				end++
			}
			if end == len(lines) {
				return nil, fmt.Errorf("%s:%d: the block has no end", path, i+1)
			}
			body := strings.Join(lines[i+1:end], "\n")
			found = append(found, Block{path, i + 1, strings.TrimPrefix(line, fence), body + "\n", marks})
			marks, i = nil, end
		case line != "" && marks != nil:
			return nil, fmt.Errorf("%s:%d: no code block follows the comment above", path, i+1)
		}
	}
	return found, nil
}

// Kind says how the block is tried. It is an error if the document does not.
func (b *Block) Kind() (Mark, error) {
	if len(b.Marks) > 0 {
		return b.Marks[0], nil
	}
	if b.Language == "go" {
		return Mark{Kind: Go}, nil
	}
	return Mark{}, fmt.Errorf("%s:%d: nothing says how this block is tried: put a comment above it, such as <!-- test: guest -->; CONTRIBUTING.md has the words", b.Path, b.Line)
}

// Commands returns the block's commands. Where lines begin with a prompt, "$ " or "# ", all others are output.
func (b *Block) Commands() ([]Command, error) {
	lines := strings.Split(strings.TrimSuffix(b.Text, "\n"), "\n")
	prompts := strings.HasPrefix(b.Text, "$ ") || strings.HasPrefix(b.Text, "# ")
	var commands []Command
	continued := false
	for i, line := range lines {
		prompt := prompts && (strings.HasPrefix(line, "$ ") || strings.HasPrefix(line, "# "))
		switch {
		case continued:
			commands[len(commands)-1].Text += "\n" + line
		case prompts && !prompt && len(commands) > 0:
			commands[len(commands)-1].Output += line + "\n"
			continue
		case strings.TrimSpace(line) == "":
			continue
		case prompt:
			commands = append(commands, Command{Line: b.Line + i + 1, Text: line[2:]})
		default:
			commands = append(commands, Command{Line: b.Line + i + 1, Text: line})
		}
		continued = strings.HasSuffix(line, `\`)
	}
	return commands, b.mark(commands)
}

// mark gives the commands what the comment says of them: the last line that is for one holds.
func (b *Block) mark(commands []Command) error {
	whole, err := b.Kind()
	if err != nil {
		return err
	}
	for i := range commands {
		commands[i].Kind, commands[i].Argument = whole.Kind, whole.Argument
	}
	if len(b.Marks) == 0 {
		return nil
	}
	for _, m := range b.Marks[1:] {
		found := false
		for i := range commands {
			c := &commands[i]
			if !strings.HasPrefix(c.Text, m.Prefix) {
				continue
			}
			found = true
			if slices.Contains(modifiers, m.Kind) {
				c.More = append(c.More, m)
			} else {
				c.Kind, c.Argument = m.Kind, m.Argument
			}
		}
		if !found {
			return fmt.Errorf("%s:%d: no command of this block begins with %q", b.Path, b.Line, m.Prefix)
		}
	}
	return nil
}

// Has returns the arguments of the command's modifiers of a kind.
func (c *Command) Has(kind Kind) []string {
	var found []string
	for _, m := range c.More {
		if m.Kind == kind {
			found = append(found, m.Argument)
		}
	}
	return found
}
