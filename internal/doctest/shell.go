package doctest

import "strings"

// Simple returns the simple commands of a shell command, each as its words without quotes, redirections and assignments before them;
// those in quotes and $(…) too, where they hold name as a word. It knows as much of a shell as documents need.
func Simple(command, name string) [][]string {
	var all [][]string
	var words []string
	end := func() {
		if len(words) > 0 {
			all = append(all, words)
		}
		words = nil
	}
	text := command
	for text != "" {
		switch c := text[0]; {
		case c == '#':
			if i := strings.IndexByte(text, '\n'); i >= 0 {
				text = text[i:]
			} else {
				text = ""
			}
			continue
		case c == ' ' || c == '\t':
			text = text[1:]
			continue
		case strings.IndexByte(";|&\n(){}", c) >= 0:
			end()
			text = text[1:]
			continue
		case c == '>' || c == '<':
			text = strings.TrimLeft(text, "<>& ")
			_, _, text = word(text)
			continue
		}
		w, quoted, rest := word(text)
		text = rest
		for _, q := range quoted {
			if strings.Contains(" "+strings.NewReplacer("(", " ", ";", " ").Replace(q)+" ", " "+name+" ") {
				all = append(all, Simple(q, name)...)
			}
		}
		if len(words) == 0 && strings.Contains(w, "=") && !strings.HasPrefix(w, "-") {
			continue // an assignment
		}
		if strings.Trim(w, "0123456789") == "" && strings.HasPrefix(text, ">") {
			continue // a descriptor
		}
		words = append(words, w)
	}
	end()
	return all
}

// word returns the first word of text, its parts that are in quotes or $(…), and what follows.
func word(text string) (w string, quoted []string, rest string) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		case c == '\'' || c == '"' || c == '`':
			n := strings.IndexByte(text[i+1:], c)
			if n < 0 {
				n = len(text) - i - 1
			}
			part := text[i+1 : i+1+n]
			quoted = append(quoted, part)
			b.WriteString(part)
			i += n + 1
		case strings.HasPrefix(text[i:], "$("):
			n := closing(text[i+2:])
			quoted = append(quoted, text[i+2:i+2+n])
			b.WriteString("$()")
			i += n + 2
		case strings.IndexByte(" \t\n;|&<>(){}", c) >= 0 && !(c == '{' || c == '}') || (c == '{' || c == '}') && b.Len() == 0:
			if i == 0 {
				return text[:1], nil, text[1:]
			}
			return b.String(), quoted, text[i:]
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), quoted, ""
}

// closing returns where the parenthesis is closed that was opened before text, or text's end.
func closing(text string) int {
	depth := 1
	for i := range len(text) {
		switch text[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return len(text)
}
