package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"gw/rpc/identity"
	"gw/rpc/resource"
)

// snapshot reads resources as an admin would write them.
func snapshot(t testing.TB, yaml string) Snapshot {
	t.Helper()
	docs, err := resource.Parse("test.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	s := Snapshot{Namespace: "default", Epoch: 1, Number: 1}
	for _, d := range docs {
		spec, digest := d.Canonical()
		s.Resources = append(s.Resources, Resource{Kind: d.Kind, Name: d.Name, Digest: digest, Spec: spec})
	}
	return s
}

func compile(t testing.TB, yaml string) *Table {
	t.Helper()
	table, err := Compile(snapshot(t, yaml))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func api(name, spec string) string {
	return fmt.Sprintf("---\napiVersion: gw/v1\nkind: API\nmetadata: {name: %s}\nspec:\n%s\n", name, indent(spec))
}

func llmOf(name, spec string) string {
	return fmt.Sprintf("---\napiVersion: gw/v1\nkind: LLM\nmetadata: {name: %s}\nspec:\n%s\n", name, indent(spec))
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n  ")
}

// tokens is an Authenticator whose answers a test decides.
type tokens struct {
	mu    sync.Mutex
	apps  map[[32]byte]*App
	asked int
	fail  error
}

func (a *tokens) Authenticate(_ context.Context, hash [32]byte, _ string) (*App, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	if a.fail != nil {
		return nil, a.fail
	}
	if app := a.apps[hash]; app != nil {
		return app, nil
	}
	return nil, ErrUnknownToken
}

// issue makes a token of an app that may call targets.
func (a *tokens) issue(targets ...string) string {
	token := identity.NewCredential(identity.AppTokenPrefix)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.apps[identity.HashCredential(token)] = NewApp("app-id", "app", "token-id", targets, nil)
	return token
}

func (a *tokens) revoke(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.apps, identity.HashCredential(token))
}

// lockedBuffer is an access log that a test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// edge is a gateway on a loopback port.
type edge struct {
	*Gateway
	url    string
	server *httptest.Server
	tokens *tokens
	log    *lockedBuffer
	stop   func()
}

func start(t testing.TB, c Config, yaml string) *edge {
	t.Helper()
	e := &edge{tokens: &tokens{apps: map[[32]byte]*App{}}, log: &lockedBuffer{}}
	if c.Authenticator == nil {
		c.Authenticator = e.tokens
	}
	c.AccessLog = e.log
	e.Gateway = New(c)
	if yaml != "" {
		table := compile(t, yaml)
		if err := e.Probe(table); err != nil {
			t.Fatal(err)
		}
		e.Swap(table)
	}
	e.server = httptest.NewServer(e.Gateway)
	e.url = e.server.URL
	e.stop = sync.OnceFunc(func() {
		e.server.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := e.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		e.Close()
	})
	t.Cleanup(e.stop)
	return e
}

// lines stops the edge and returns its access log.
func (e *edge) lines(t *testing.T) []map[string]any {
	t.Helper()
	e.stop()
	var out []map[string]any
	scanner := bufio.NewScanner(&e.log.b)
	for scanner.Scan() {
		var m map[string]any
		if err := json.Unmarshal(scanner.Bytes(), &m); err != nil {
			t.Fatalf("access log line %q: %v", scanner.Text(), err)
		}
		out = append(out, m)
	}
	return out
}

func upstreamServer(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) code() string {
	var e struct{ Error struct{ Code string } }
	_ = json.Unmarshal([]byte(r.body), &e)
	return e.Error.Code
}

func send(t testing.TB, method, url, body string, headers ...string) reply {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, url, reader)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(text)}
}

func (r reply) want(t testing.TB, status int, code string) {
	t.Helper()
	if r.status != status || code != "" && r.code() != code {
		t.Errorf("got %d %s, want %d with code %q", r.status, r.body, status, code)
	}
	if code != "" && r.header.Get("X-Gw-Error") != "1" {
		t.Errorf("refusal %q lacks X-Gw-Error", code)
	}
}

func TestBeforeTheFirstSwap(t *testing.T) {
	e := start(t, Config{}, "")
	r := send(t, "GET", e.url+"/x", "")
	r.want(t, 503, "no_release")
	if r.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if e.Table() != nil {
		t.Error("a table before the first swap")
	}
}

func TestForwardsAnAPIRequest(t *testing.T) {
	type seen struct {
		*http.Request
		body string
	}
	got := make(chan seen, 1)
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- seen{r, string(b)}
		w.Header().Set("X-Up", "1")
		w.Header().Set("X-Secret-Version", "9")
		w.Header().Set("X-Gw-Error", "1")
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.WriteHeader(201)
		io.WriteString(w, "made")
	})
	e := start(t, Config{Secret: func(name string) (string, bool) { return "s3cret", name == "key" }},
		api("orders", `
paths: [/orders]
strip_prefix: true
upstreams: [{url: "`+up+`/base/"}]
request_headers: {remove: [x-drop], set: {X-Set: new}, add: {X-Add: more}}
response_headers: {remove: [X-Secret-Version], set: {X-Edge: e}}
credential: {secret: key}
`))
	token := e.tokens.issue("API/orders")
	r := send(t, "POST", e.url+"/orders/a%2Fb//c/../d?q=1;2&&", "hello",
		"Authorization", "Bearer "+token, "X-Drop", "1", "X-Set", "old", "X-Add", "first", "X-Forwarded-For", "6.6.6.6",
		"X-Forwarded-Port", "1", "Forwarded", "for=6.6.6.6", "Connection", "X-Mine", "X-Mine", "1", "X-Gw-Trick", "1",
		"Proxy-Authorization", "Basic x", "X-Api-Key", "theirs", "X-Request-Id", "abc-1")
	r.want(t, 201, "")
	if r.body != "made" || r.header.Get("X-Up") != "1" || r.header.Get("X-Edge") != "e" || r.header.Get("X-Secret-Version") != "" ||
		r.header.Get("X-Gw-Error") != "" || r.header.Get("X-Hop") != "" || r.header.Get("X-Gw-Request-Id") != "abc-1" {
		t.Errorf("answer %q %v", r.body, r.header)
	}
	s := <-got
	if s.RequestURI != "/base/a%2Fb/d?q=1;2&&" || s.body != "hello" || s.ContentLength != 5 {
		t.Errorf("upstream got %s %q", s.RequestURI, s.body)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer s3cret", "X-Drop": "", "X-Set": "new", "X-Add": "first,more", "X-Forwarded-For": "127.0.0.1",
		"X-Forwarded-Host": strings.TrimPrefix(e.url, "http://"), "X-Forwarded-Proto": "http", "X-Forwarded-Port": "",
		"Forwarded": "", "X-Mine": "", "X-Gw-Trick": "", "Proxy-Authorization": "", "X-Api-Key": "theirs", "User-Agent": "Go-http-client/1.1",
	} {
		if got := strings.Join(s.Header[name], ","); got != want {
			t.Errorf("upstream got %s: %q, want %q", name, got, want)
		}
	}
	lines := e.lines(t)
	if len(lines) != 1 {
		t.Fatalf("%d lines", len(lines))
	}
	for key, want := range map[string]any{"id": "abc-1", "method": "POST", "path": "/orders/a%2Fb//c/../d", "status": 201.0, "bytes": 4.0,
		"target": "API/orders", "app": "app", "token": "token-id", "client": "127.0.0.1"} {
		if lines[0][key] != want {
			t.Errorf("log: %s is %v, want %v", key, lines[0][key], want)
		}
	}
	if strings.Contains(e.log.b.String(), token) {
		t.Error("the credential is in the log")
	}
}
