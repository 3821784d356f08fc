package static

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
)

// own lists the files in files/ that are this project's.
var own = map[string]bool{"files/app.css": true, "files/app.js": true, "files/theme.js": true, "files/logo.svg": true, "files/chev.svg": true}

func TestVendoredFilesAreThoseRecorded(t *testing.T) {
	f, err := os.Open("VENDOR.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	recorded := map[string]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		c := strings.Split(lines.Text(), " | ")
		if len(c) != 7 {
			t.Fatalf("line %q has %d columns, want 7", lines.Text(), len(c))
		}
		data, err := os.ReadFile(c[0])
		if err != nil {
			t.Error(err)
			continue
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != c[5] {
			t.Errorf("%s: sha256 %x, recorded %s", c[0], sum, c[5])
		}
		recorded[c[0]] = true
	}
	fs.WalkDir(embedded, "files", func(p string, d fs.DirEntry, err error) error {
		if !d.IsDir() && !own[p] && !recorded[p] {
			t.Errorf("%s is neither ours nor recorded in VENDOR.txt", p)
		}
		return err
	})
}

func TestEveryFileIsServedUnderItsHash(t *testing.T) {
	for name, hashed := range assets().names {
		w := get(t, Prefix+hashed, "gzip", "")
		if w.Code != http.StatusOK || w.Header().Get("Content-Type") == "" || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s: status %d, headers %v", name, w.Code, w.Header())
		}
		body := io.Reader(w.Body)
		if w.Header().Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(body)
			if err != nil {
				t.Fatal(err)
			}
			body = z
		}
		data, err := io.ReadAll(body)
		sum := sha256.Sum256(data)
		if err != nil || !strings.Contains(hashed, hex.EncodeToString(sum[:6])) {
			t.Errorf("%s: served content has hash %x (error %v)", hashed, sum[:6], err)
		}
		if again := get(t, Prefix+hashed, "", w.Header().Get("ETag")); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
			t.Errorf("%s asked for again: status %d, %d bytes", hashed, again.Code, again.Body.Len())
		}
	}
	for _, p := range []string{"app.css", "", "../static.go", "app.000000000000.css"} {
		if w := get(t, Prefix+p, "", ""); w.Code != http.StatusNotFound {
			t.Errorf("%q: status %d, want 404", p, w.Code)
		}
	}
}

func TestStyleSheetNamesOnlyFilesThatExist(t *testing.T) {
	css := assets().files[assets().names["app.css"]].plain
	for _, m := range regexp.MustCompile(`url\(([^)]*)\)`).FindAllSubmatch(css, -1) {
		if assets().files[string(m[1])] == nil {
			t.Errorf("app.css refers to %q", m[1])
		}
	}
	for _, name := range bundle {
		part, err := embedded.ReadFile("files/" + name)
		if err != nil || !strings.Contains(string(assets().files[assets().names["console.js"]].plain), string(part)) {
			t.Errorf("console.js lacks %s (error %v)", name, err)
		}
	}
	sprite := string(assets().files[assets().names["icons.svg"]].plain)
	if strings.Count(sprite, "<symbol") < 20 || strings.Contains(sprite, "<script") {
		t.Errorf("sprite has %d symbols", strings.Count(sprite, "<symbol"))
	}
}

func TestBudgets(t *testing.T) {
	sent := map[string]int{}
	for name, hashed := range assets().names {
		f := assets().files[hashed]
		n := len(f.plain)
		if f.gzipped != nil {
			n = len(f.gzipped)
		}
		sent[path.Ext(name)] += n
	}
	t.Logf("bytes sent: %v", sent)
	if sent[".js"] > 20_000 || sent[".css"] > 8_000 || sent[".woff2"] > 50_000 {
		t.Errorf("bytes sent %v; the budget is 20 kB of JavaScript, 8 kB of CSS, 50 kB of font", sent)
	}
}

func get(t *testing.T, target, accept, etag string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "http://hub/", nil)
	r.URL.Path = target
	r.Header.Set("Accept-Encoding", accept)
	r.Header.Set("If-None-Match", etag)
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w
}
