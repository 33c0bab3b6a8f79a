package main

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/stile-vmm/stile/internal/hostpci"
)

func printGraph(host *hostpci.Host, format string) error {
	draw := map[string]func(io.Writer, *hostpci.Snapshot){"svg": drawSVG, "dot": drawDot}[format]
	if draw == nil {
		return fmt.Errorf("--graph %s: must be svg or dot", format)
	}
	s, err := host.Scan()
	if err != nil {
		return err
	}
	host.Name(s.Functions...)
	w := bufio.NewWriter(os.Stdout)
	draw(w, s)
	return w.Flush()
}

// Colours of groups by what can be done with them.
const (
	colourUsable  = "#2e7d32" // a guest can have it
	colourViable  = "#1565c0" // viable once something is bound
	colourBlocked = "#c62828"
	colourNone    = "#616161" // no group
)

func groupColour(g *hostpci.Group) string {
	switch {
	case g.Viability.Usable:
		return colourUsable
	case g.Viability.Viable:
		return colourViable
	}
	return colourBlocked
}

func rowColour(s hostpci.Status) string {
	switch {
	case s.Ready():
		return colourUsable
	case s == hostpci.StatusHostDriver:
		return colourBlocked
	}
	return colourNone
}

// graphBox is a group, or the functions without one.
type graphBox struct {
	title, colour string
	rows          []graphRow
}

type graphRow struct{ name, text, colour string }

func graphBoxes(s *hostpci.Snapshot) []graphBox {
	var boxes []graphBox
	for _, g := range s.Groups {
		state := "not viable"
		if g.Viability.Viable {
			state = groupState(g)
		}
		b := graphBox{title: groupTitle(g) + ": " + state, colour: groupColour(g)}
		for _, m := range g.Members {
			b.rows = append(b.rows, memberRow(s, m))
		}
		boxes = append(boxes, b)
	}
	none := graphBox{title: "Without IOMMU group", colour: colourNone}
	for _, f := range s.Functions {
		if f.Group == nil {
			none.rows = append(none.rows, functionRow(f, colourNone))
		}
	}
	if len(none.rows) > 0 {
		boxes = append(boxes, none)
	}
	return boxes
}

func memberRow(s *hostpci.Snapshot, m hostpci.Member) graphRow {
	if m.Function != nil {
		if f := s.Function(*m.Function); f != nil {
			return functionRow(f, rowColour(f.Status))
		}
	}
	return graphRow{m.Name, orDash(m.Driver) + "  " + memberTitle(s, m), rowColour(m.Status)}
}

func functionRow(f *hostpci.Function, colour string) graphRow {
	return graphRow{f.Address.String(), orDash(f.Driver) + "  " + f.Title() + virtualNote(f), colour}
}

// Measures of the drawing, in pixels.
const (
	boxWidth  = 480
	rowHeight = 20
	boxGap    = 16
	textSize  = 12
	textWidth = 7 // of one character, on average
	margin    = 16
	// columnRows is how many rows a column has before the next one starts.
	columnRows = 40
)

func (b graphBox) height() int { return (len(b.rows)+1)*rowHeight + rowHeight/2 }

// drawSVG places groups in columns from top to bottom, each a box with a row per member.
func drawSVG(w io.Writer, s *hostpci.Snapshot) {
	boxes := graphBoxes(s)
	places, width, height := placeBoxes(boxes)
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="monospace" font-size="%d">`+"\n",
		width, height, width, height, textSize)
	fmt.Fprintf(w, "<title>IOMMU groups</title>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n")
	for i, b := range boxes {
		drawBox(w, b, places[i][0], places[i][1])
	}
	fmt.Fprintln(w, "</svg>")
}

func placeBoxes(boxes []graphBox) (places [][2]int, width, height int) {
	x, y := margin, margin
	for _, b := range boxes {
		if y > margin && y+b.height() > columnRows*rowHeight {
			x, y = x+boxWidth+boxGap, margin
		}
		places = append(places, [2]int{x, y})
		y += b.height() + boxGap
		height = max(height, y)
	}
	return places, x + boxWidth + margin, max(height, 2*margin)
}

func drawBox(w io.Writer, b graphBox, x, y int) {
	fmt.Fprintf(w, `<rect x="%d" y="%d" width="%d" height="%d" rx="4" fill="none" stroke="%s" stroke-width="2"/>`+"\n", x, y, boxWidth, b.height(), b.colour)
	drawText(w, x+8, y+rowHeight-5, b.colour, "bold", b.title)
	for i, r := range b.rows {
		top := y + (i+1)*rowHeight
		fmt.Fprintf(w, `<rect x="%d" y="%d" width="6" height="%d" fill="%s"/>`+"\n", x+8, top+5, rowHeight-8, r.colour)
		drawText(w, x+20, top+rowHeight-5, "#000000", "normal", r.name+"  "+r.text)
	}
}

// drawText cuts what does not fit; all of it is in the tooltip.
func drawText(w io.Writer, x, y int, colour, weight, text string) {
	shown := []rune(text)
	if most := (boxWidth - 28) / textWidth; len(shown) > most {
		shown = append(shown[:most-1], '…')
	}
	fmt.Fprintf(w, `<text x="%d" y="%d" fill="%s" font-weight="%s" xml:space="preserve">%s<title>%s</title></text>`+"\n",
		x, y, colour, weight, escapeXML(string(shown)), escapeXML(text))
}

func escapeXML(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text))
	return b.String()
}

// drawDot writes the groups for Graphviz, with edges from parents to mediated devices and
// from physical to virtual functions.
func drawDot(w io.Writer, s *hostpci.Snapshot) {
	fmt.Fprintln(w, "digraph stile {\n  rankdir=LR;\n  node [shape=box, fontname=monospace];")
	for i, b := range graphBoxes(s) {
		fmt.Fprintf(w, "  subgraph cluster_%d {\n    label=%s; color=%q;\n", i, quoteDot(b.title), b.colour)
		for _, r := range b.rows {
			fmt.Fprintf(w, "    %s [label=%s, color=%q];\n", quoteDot(r.name), quoteDot(r.name+"\n"+r.text), r.colour)
		}
		fmt.Fprintln(w, "  }")
	}
	for _, m := range s.Mediated {
		if m.ParentFunction != nil {
			fmt.Fprintf(w, "  %s -> %s [label=\"made into\"];\n", quoteDot(m.Parent), quoteDot(m.UUID))
		}
	}
	for _, f := range s.Functions {
		for _, v := range f.VirtualFunctions {
			fmt.Fprintf(w, "  %s -> %s [label=\"virtual function\", style=dashed];\n", quoteDot(f.Address.String()), quoteDot(v.String()))
		}
	}
	fmt.Fprintln(w, "}")
}

// quoteDot quotes as the DOT language does.
func quoteDot(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(text) + `"`
}
