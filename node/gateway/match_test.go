package gateway

import (
	"net/http"
	"net/url"
	gopath "path"
	"strings"
	"testing"
)

const routes = `
---
apiVersion: gw/v1
kind: API
metadata: {name: root}
spec: {paths: ["/"], upstreams: [{url: "http://h"}]}
---
apiVersion: gw/v1
kind: API
metadata: {name: orders-get}
spec: {paths: [/orders], methods: [GET, HEAD], upstreams: [{url: "http://h"}]}
---
apiVersion: gw/v1
kind: API
metadata: {name: orders-put}
spec: {paths: [/orders/], methods: [PUT], upstreams: [{url: "http://h"}]}
---
apiVersion: gw/v1
kind: API
metadata: {name: deep}
spec: {paths: [/orders/deep/er], upstreams: [{url: "http://h"}]}
---
apiVersion: gw/v1
kind: API
metadata: {name: host}
spec: {hosts: [api.example.com], paths: [/v1, /own], upstreams: [{url: "http://h"}]}
---
apiVersion: gw/v1
kind: API
metadata: {name: wild}
spec: {hosts: ["*.example.com"], paths: [/w], upstreams: [{url: "http://h"}]}
---
apiVersion: gw/v1
kind: API
metadata: {name: wilder}
spec: {hosts: ["*.eu.example.com"], paths: [/w], upstreams: [{url: "http://h"}]}
---
apiVersion: gw/v1
kind: LLM
metadata: {name: m}
spec: {base_url: "http://h"}
`

func TestMatch(t *testing.T) {
	table := compile(t, routes)
	for _, c := range []struct{ host, path, method, want string }{
		{"", "/", "GET", "API/root"},
		{"", "/ordersx", "GET", "API/root"},
		{"", "/orders", "GET", "API/orders-get"},
		{"", "/orders/", "GET", "API/orders-get"},
		{"", "/orders/1/2/3", "PUT", "API/orders-put"},
		{"", "/orders/1", "POST", "405 GET, HEAD, PUT"},
		{"", "/orders/deep", "GET", "API/orders-get"},
		{"", "/orders/deep/er/x", "POST", "API/deep"},
		{"", "/orders/deep/erx", "PUT", "API/orders-put"},
		{"", "//orders//./1", "PUT", "API/orders-put"},
		{"", "/x/../orders", "PUT", "API/orders-put"},
		{"", "/%6Frders/1", "PUT", "API/orders-put"},
		{"", "/orders%2F1", "PUT", "400"},
		{"", "/orders/1%2F2", "PUT", "API/orders-put"},
		{"", "/v1/models", "GET", "/v1"},
		{"", "/v1", "GET", "/v1"},
		{"", "/v1beta", "GET", "API/root"},
		{"", "/llm/m/v1/x", "GET", "LLM/m"},
		{"", "/llm/n/v1/x", "GET", "/llm"},
		{"other", "/llm/m", "GET", "LLM/m"},
		{"api.example.com", "/v1/x", "GET", "API/host"},
		{"API.example.com.:8080", "/own/x", "GET", "API/host"},
		{"api.example.com", "/w/x", "GET", "API/wild"},
		{"api.example.com", "/orders", "GET", "API/orders-get"},
		{"api.example.com", "/llm/m/x", "GET", "LLM/m"},
		{"x.y.example.com", "/w", "GET", "API/wild"},
		{"x.eu.example.com", "/w", "GET", "API/wilder"},
		{"eu.example.com", "/w", "GET", "API/wild"},
		{"example.com", "/w", "GET", "API/root"},
		{"[::1]:80", "/w", "GET", "API/root"},
	} {
		got := ""
		p, ok := cleanPath(c.path)
		r, same := table.match(c.host, p, c.method)
		switch {
		case !ok || !same:
			got = "400"
		case r.target != nil:
			got = r.target.ref
		case r.surface == surfaceMethod:
			got = "405 " + r.allow
		case r.surface == surfaceOpenAI:
			got = openAIPrefix
		case r.surface == surfaceLLM:
			got = llmPrefix
		}
		if got != c.want {
			t.Errorf("%s %s%s: got %s, want %s", c.method, c.host, c.path, got, c.want)
		}
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	table := compile(t, routes)
	allocs := testing.AllocsPerRun(100, func() {
		p, _ := cleanPath("/orders/1/2/3")
		if r, _ := table.match("x.eu.example.com:443", p, "PUT"); r.target == nil {
			t.Error("not found")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestAmbiguousPathsAreRefused(t *testing.T) {
	for _, p := range []string{"", "x", "*", "/%2e%2e/a", "/a/%2E/b", "/a/.%2e", "/a%2f..%2fb", "/a/..%2fb", "/a/..;x=1/b", "/a\\..\\b", "/a%5c..%5cb",
		"/%", "/%zz", "/%00", "/a%0ab", "/a b", "/" + strings.Repeat("a", maxPath)} {
		if got, ok := cleanPath(p); ok {
			t.Errorf("%q was read as %+v", p, got)
		}
	}
	e := start(t, Config{}, api("a", "paths: ['/']\nauth: keyless\nupstreams: [{url: http://127.0.0.1:1}]"))
	send(t, http.MethodGet, e.url+"/x/%2e%2e/y", "").want(t, 400, "ambiguous_path")
}

func FuzzCleanPath(f *testing.F) {
	for _, p := range []string{"/", "/a/b", "//a", "/a/../b/", "/a%2Fb//c", "/%61/./b", "/.well-known/x", "/a/..", "/a;b/c"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		p, ok := cleanPath(raw)
		if !ok {
			return
		}
		// What is forwarded means what was matched, and cleaning is done: nobody behind reads it as another path.
		again, ok := cleanPath(p.escaped)
		if !ok || again != p {
			t.Fatalf("%q: %+v is cleaned again to %+v, %v", raw, p, again, ok)
		}
		text, err := url.PathUnescape(p.escaped)
		if err != nil {
			t.Fatal(err)
		}
		if clean := gopath.Clean(text); strings.TrimSuffix(p.decoded, "/") != strings.TrimSuffix(clean, "/") {
			t.Fatalf("%q: matched %q, but what is forwarded decodes to %q", raw, p.decoded, clean)
		}
		if !strings.HasPrefix(p.escaped, "/") || strings.Contains(p.escaped, "//") || len(p.escaped) > len(raw) {
			t.Fatalf("%q: forwards %q", raw, p.escaped)
		}
		for n := range len(p.literal) {
			if rest := p.after(n); !strings.HasSuffix(p.escaped, rest) {
				t.Fatalf("%q: after %d is %q", raw, n, rest)
			}
		}
	})
}

// FuzzMatch checks that no spelling of a path reaches another API than the path it decodes to.
func FuzzMatch(f *testing.F) {
	f.Add("x.example.com", "/orders/%2e", "GET")
	f.Add("", "/orders%2Fdeep/er", "PUT")
	table := compile(f, routes)
	f.Fuzz(func(t *testing.T, host, raw, method string) {
		p, ok := cleanPath(raw)
		if !ok {
			return
		}
		r, ok := table.match(host, p, method)
		if !ok {
			return
		}
		text, err := url.PathUnescape(p.escaped)
		if err != nil {
			t.Fatal(err)
		}
		if plain := table.find(host, gopath.Clean(text), method); plain.target != r.target || plain.surface != r.surface {
			t.Fatalf("%q leads to %+v, decoded to %+v", raw, r, plain)
		}
	})
}
