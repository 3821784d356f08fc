// Package static owns the console's files: embedded, named by their content, compressed once.
package static

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:embed files
var embedded embed.FS

// Prefix is where Handler expects to be mounted.
const Prefix = "/static/"

// file is one asset as it is sent.
type file struct {
	etag, contentType string
	plain, gzipped    []byte // gzipped is nil where it would not be smaller
}

// set is every asset, immutable once built.
type set struct {
	names map[string]string // name in files/ → hashed name
	files map[string]*file  // hashed name → file
}

// assets are built on first use: what is embedded never changes, so neither do they.
var assets = sync.OnceValue(build)

// URL returns the path of a file in files/, such as "app.css", with its content's hash in the name. A name that does not
// exist gives a path that is answered with 404.
func URL(name string) string {
	return Prefix + assets().names[name]
}

// Handler serves the files under Prefix.
func Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := assets().files[strings.TrimPrefix(r.URL.Path, Prefix)]
		if f == nil {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", f.contentType)
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
		h.Set("ETag", f.etag)
		h.Add("Vary", "Accept-Encoding")
		if slices.Contains(strings.Split(strings.ReplaceAll(r.Header.Get("If-None-Match"), " ", ""), ","), f.etag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		body := f.plain
		if f.gzipped != nil && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			h.Set("Content-Encoding", "gzip")
			body = f.gzipped
		}
		h.Set("Content-Length", strconv.Itoa(len(body)))
		if r.Method != http.MethodHead {
			w.Write(body) // the client is gone if this fails
		}
	})
}

// bundle is the parts of console.js. They are one script because htmx starts soon after it is read: an extension that
// came later, or listeners, would miss the start.
var bundle = []string{"htmx.min.js", "hx-sse.min.js", "app.js"}

// build names every file by its content. The style sheet comes last, because it names others.
func build() *set {
	s := &set{names: map[string]string{}, files: map[string]*file{}}
	var sheets []string
	icons := map[string][]byte{}
	fs.WalkDir(embedded, "files", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := embedded.ReadFile(p)
		name := strings.TrimPrefix(p, "files/")
		switch {
		case err != nil:
			return err
		case path.Ext(name) == ".css":
			sheets = append(sheets, name)
			return nil
		case slices.Contains(bundle, name):
			return nil
		case path.Dir(name) == "icons":
			icons[strings.TrimSuffix(path.Base(name), ".svg")] = data
		}
		s.add(name, data)
		return nil
	})
	s.add("icons.svg", sprite(icons))
	var script bytes.Buffer
	for _, name := range bundle {
		data, _ := embedded.ReadFile("files/" + name) // fails only if the name is wrong, which a test would see
		script.Write(append(data, '\n'))
	}
	s.add("console.js", script.Bytes())
	for _, name := range sheets {
		data, _ := embedded.ReadFile("files/" + name) // read without error a moment ago, from memory
		s.add(name, s.link(data))
	}
	return s
}

// add puts a file into the set.
func (s *set) add(name string, data []byte) {
	sum := sha256.Sum256(data)
	ext := path.Ext(name)
	hash := hex.EncodeToString(sum[:6])
	hashed := strings.TrimSuffix(strings.ReplaceAll(name, "/", "-"), ext) + "." + hash + ext
	f := &file{etag: `"` + hash + `"`, contentType: contentTypes[ext], plain: data}
	if z := compress(data); len(z) < len(data) {
		f.gzipped = z
	}
	s.names[name], s.files[hashed] = hashed, f
}

// contentTypes is fixed here because the mime package also asks the machine it runs on.
var contentTypes = map[string]string{
	".css":   "text/css; charset=utf-8",
	".js":    "text/javascript; charset=utf-8",
	".svg":   "image/svg+xml",
	".woff2": "font/woff2",
}

var reference = regexp.MustCompile(`url\(([a-z0-9./-]+)\)`)

// link replaces the names in a style sheet's url() by hashed ones. Files lie beside one another, so no path is needed.
func (s *set) link(css []byte) []byte {
	return reference.ReplaceAllFunc(css, func(m []byte) []byte {
		return []byte("url(" + s.names[string(reference.FindSubmatch(m)[1])] + ")")
	})
}

// sprite puts every icon into one document, each under its name. The stroke's width is left to the style sheet.
func sprite(icons map[string][]byte) []byte {
	names := make([]string, 0, len(icons))
	for name := range icons {
		names = append(names, name)
	}
	slices.Sort(names)
	var b bytes.Buffer
	b.WriteString(`<svg xmlns="http://www.w3.org/2000/svg">`)
	for _, name := range names {
		_, inner, _ := bytes.Cut(icons[name], []byte("<svg"))
		_, inner, _ = bytes.Cut(inner, []byte(">"))
		inner, _, _ = bytes.Cut(inner, []byte("</svg>"))
		b.WriteString(`<symbol id="` + name + `" viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-linecap="round" stroke-linejoin="round">`)
		b.Write(bytes.TrimSpace(inner))
		b.WriteString(`</symbol>`)
	}
	b.WriteString(`</svg>`)
	return b.Bytes()
}

// compress writes to memory, which does not fail.
func compress(data []byte) []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	z.Write(data)
	z.Close()
	return b.Bytes()
}
