package images

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"

	"github.com/stile-vmm/stile/internal/trust"
)

const (
	// defaultProxy is the Go tool's own default.
	defaultProxy = "https://proxy.golang.org,direct"
	// maxDownload bounds a module's zip file, in bytes. The Go tool allows as much.
	maxDownload = 500 << 20
	// fetchAttempts is how often a proxy is asked, with a pause in between.
	fetchAttempts = 3
	fetchPause    = time.Second
)

var (
	errOffline = errors.New("GOPROXY allows no download")
	// errRefused is in the error of a request that would be answered the same again.
	errRefused = errors.New("refused")
)

// download gets a module through the proxies that GOPROXY names, checks it, and writes one of its files to w.
func download(ctx context.Context, p pin, file string, w io.Writer) error {
	archive, err := os.CreateTemp(trust.TempDir(), "stile-module-*.zip")
	if err != nil {
		return err
	}
	defer os.Remove(archive.Name())
	defer archive.Close()
	if err := fetchFromAny(ctx, p.Version, archive); err != nil {
		return err
	}
	sum, err := dirhash.HashZip(archive.Name(), dirhash.Hash1)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	if sum != p.sum {
		return fmt.Errorf("%s: what the module proxy sent has the hash %s, expected was %s", p, sum, p.sum)
	}
	return extract(archive.Name(), p.String()+"/"+file, w)
}

// fetchFromAny tries the proxies in turn.
func fetchFromAny(ctx context.Context, m module.Version, f *os.File) error {
	var errs []error
	for _, proxy := range proxies(os.Getenv("GOPROXY")) {
		err := fetchPatiently(ctx, proxy, m, f)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return errOffline
	}
	return errors.Join(errs...)
}

// fetchPatiently tries a proxy again that is busy, or whose connection broke.
func fetchPatiently(ctx context.Context, proxy string, m module.Version, f *os.File) error {
	for n := 1; ; n++ {
		err := fetch(ctx, proxy, m, f)
		if err == nil || n == fetchAttempts || errors.Is(err, errRefused) || errors.Is(err, fs.ErrNotExist) {
			return err
		}
		select {
		case <-time.After(fetchPause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// proxies splits a GOPROXY setting, of which "direct" and what follows "off" is of no use here.
func proxies(setting string) []string {
	if setting == "" {
		setting = defaultProxy
	}
	var urls []string
	for _, url := range strings.FieldsFunc(setting, func(r rune) bool { return r == ',' || r == '|' }) {
		switch url = strings.TrimSpace(url); url {
		case "off":
			return urls
		case "direct", "":
		default:
			urls = append(urls, strings.TrimSuffix(url, "/"))
		}
	}
	return urls
}

// fetch writes a module's zip file to f. See https://go.dev/ref/mod#goproxy-protocol.
func fetch(ctx context.Context, proxy string, m module.Version, f *os.File) error {
	path, err := module.EscapePath(m.Path)
	if err != nil {
		return err
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(0), seekStart(f)); err != nil {
		return err
	}
	body, err := open(ctx, proxy+"/"+path+"/@v/"+version+".zip")
	if err != nil {
		return err
	}
	defer body.Close()
	n, err := io.Copy(f, io.LimitReader(body, maxDownload+1))
	if err != nil {
		return fmt.Errorf("download %s: %w", m, err)
	}
	if n > maxDownload {
		return fmt.Errorf("download %s: more than %d bytes", m, maxDownload)
	}
	return nil
}

func seekStart(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// open opens a http, https or file URL.
func open(ctx context.Context, url string) (io.ReadCloser, error) {
	if path, ok := strings.CutPrefix(url, "file://"); ok {
		return os.Open(path)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		if resp.StatusCode < http.StatusInternalServerError && resp.StatusCode != http.StatusTooManyRequests {
			return nil, fmt.Errorf("download %s: %w with %s", url, errRefused, resp.Status)
		}
		return nil, fmt.Errorf("download %s: %s", url, resp.Status)
	}
	return resp.Body, nil
}

func extract(archive, name string, w io.Writer) error {
	r, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := r.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
