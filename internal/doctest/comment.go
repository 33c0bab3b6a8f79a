package doctest

import (
	"go/ast"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"strings"
)

// Comments returns the code blocks in the comments of a Go file, of the package and of what it declares.
func Comments(path, source string) ([]Block, error) {
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, path, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var found []Block
	show := func(group *ast.CommentGroup) {
		if group == nil {
			return
		}
		for _, part := range new(comment.Parser).Parse(group.Text()).Content {
			if code, ok := part.(*comment.Code); ok {
				found = append(found, Block{Path: path, Line: files.Position(group.Pos()).Line, Text: strings.TrimRight(code.Text, "\n") + "\n"})
			}
		}
	}
	show(f.Doc)
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			show(d.Doc)
		case *ast.GenDecl:
			show(d.Doc)
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					show(s.Doc)
				case *ast.ValueSpec:
					show(s.Doc)
				}
			}
		}
	}
	return found, nil
}
