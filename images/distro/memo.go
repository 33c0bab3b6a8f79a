package distro

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/stile-vmm/stile/images"
)

// A memo remembers for what package a version stood.
func imageMemo(version string) string {
	return "image-" + distributionName.ReplaceAllString(version, "")
}
func sourceMemo(version string) string { return "source-" + version }

// A release remembers which package it came in, for its headers.
func releaseMemo(release string) string { return "release-" + release }

// suiteOfRelease returns the suite that a kernel was fetched from, "" when it was one of the system's own, or is not known.
func suiteOfRelease(cache *images.Cache, release string) string {
	p, ok := recall(cache, releaseMemo(release))
	if !ok {
		return ""
	}
	return p.suite
}

func remember(ctx context.Context, cache *images.Cache, memo string, p *pkg) error {
	_, err := cache.Replace(ctx, images.KindPackage, memo, func(w *os.File) error {
		_, err := io.WriteString(w, strings.TrimSpace(p.String()+" "+p.suite)+"\n")
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
	field := append(strings.Fields(string(text)), "", "", "")
	p, err := (&pkg{name: field[0], version: field[1], suite: field[2]}).check()
	return p, err == nil
}
