package distro

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/stile-vmm/stile/images"
)

// A memo remembers for what package a version stood.
func imageMemo(version string) string  { return "image-" + version }
func sourceMemo(version string) string { return "source-" + version }

func remember(ctx context.Context, cache *images.Cache, memo string, p *pkg) error {
	_, err := cache.Replace(ctx, images.KindPackage, memo, func(w *os.File) error {
		_, err := io.WriteString(w, p.String()+"\n")
		return err
	})
	return err
}

func recall(cache *images.Cache, memo string) (*pkg, bool) {
	if strings.ContainsRune(memo, '/') {
		return nil, false // no version that was ever remembered
	}
	path, ok := cache.Lookup(images.KindPackage, memo)
	if !ok {
		return nil, false
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, false
	}
	name, version, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	p, err := (&pkg{name: name, version: version}).check()
	return p, err == nil
}
