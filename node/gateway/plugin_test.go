package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"gw/edgeplugin/pluginv1"
)

// scripted are plugins whose answers a test decides.
type scripted struct {
	request  func(i int, hook pluginv1.Hook, r *pluginv1.Request) (*pluginv1.Decision, error)
	response func(i int, r *pluginv1.Response) (*pluginv1.Decision, error)
	chunk    func(i int, c *pluginv1.StreamChunk) (*pluginv1.StreamChunkDecision, error)
	limit    int64
	limits   []int64 // of each plugin, in the place of limit
	gone     atomic.Bool
	holds    atomic.Int64

	mu    sync.Mutex
	asked []string
}

func (s *scripted) Hold() bool {
	if s.gone.Load() {
		return false
	}
	s.holds.Add(1)
	return true
}

func (s *scripted) Release() { s.holds.Add(-1) }

func (s *scripted) Needs(i int) (bool, bool, int64) {
	if s.limits != nil {
		return true, true, s.limits[i]
	}
	return s.limit > 0, s.limit > 0, s.limit
}

func (s *scripted) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, what)
}

func (s *scripted) Request(_ context.Context, i int, hook pluginv1.Hook, r *pluginv1.Request) (*pluginv1.Decision, error) {
	s.note(fmt.Sprintf("%d %s", i, strings.TrimPrefix(hook.String(), "HOOK_")))
	if _, err := proto.Marshal(r); err != nil {
		return nil, err
	}
	if s.request == nil {
		return &pluginv1.Decision{}, nil
	}
	return s.request(i, hook, r)
}

func (s *scripted) Response(_ context.Context, i int, r *pluginv1.Response) (*pluginv1.Decision, error) {
	s.note(fmt.Sprintf("%d ON_RESPONSE", i))
	if _, err := proto.Marshal(r); err != nil {
		return nil, err
	}
	if s.response == nil {
		return &pluginv1.Decision{}, nil
	}
	return s.response(i, r)
}

func (s *scripted) Chunk(_ context.Context, i int, c *pluginv1.StreamChunk) (*pluginv1.StreamChunkDecision, error) {
	if s.chunk == nil {
		return &pluginv1.StreamChunkDecision{}, nil
	}
	return s.chunk(i, c)
}

func pluginOf(name string, id int, spec string) string {
	return fmt.Sprintf("---\nkind: Plugin\nmetadata: {name: %s}\nspec:\n  id: %d\n  command: file:///opt/%s\n%s\n", name, id, name, indent(spec))
}

func startPlugins(t *testing.T, p *scripted, yaml string) *edge {
	t.Helper()
	e := start(t, Config{}, "")
	table := compile(t, yaml)
	if err := e.Probe(table); err != nil {
		t.Fatal(err)
	}
	e.Swap(table, p)
	t.Cleanup(func() {
		e.stop()
		if n := p.holds.Load(); n != 0 {
			t.Errorf("%d requests still hold the plugins", n)
		}
	})
	return e
}

func echo(t *testing.T) string {
	return upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Up", "1")
		fmt.Fprintf(w, "%s %s %s auth=%q added=%q", r.Method, r.URL.Path, body, r.Header.Get("Authorization"), r.Header.Get("X-Added"))
	})
}

const everyHook = "hooks: [pre_auth, auth, post_auth, on_response]"

func TestPluginsAreAskedInOrder(t *testing.T) {
	p := &scripted{}
	e := startPlugins(t, p, api("a", "paths: [/a]\nupstreams: [{url: "+echo(t)+"}]")+
		pluginOf("z-first", 1, "order: 1\n"+everyHook)+pluginOf("b", 2, everyHook)+pluginOf("a", 3, everyHook)+
		pluginOf("elsewhere", 4, "scope: {apis: [other]}\n"+everyHook)+pluginOf("llms", 5, "scope: {llms: [a]}\n"+everyHook))
	send(t, "GET", e.url+"/a", "", "Authorization", "Bearer "+e.tokens.issue("API/a")).want(t, 200, "")
	want := "0 PRE_AUTH,1 PRE_AUTH,2 PRE_AUTH,0 AUTH,1 AUTH,2 AUTH,0 POST_AUTH,1 POST_AUTH,2 POST_AUTH,0 ON_RESPONSE,1 ON_RESPONSE,2 ON_RESPONSE"
	if got := strings.Join(p.asked, ","); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAPluginSeesTheRequestButNoToken(t *testing.T) {
	var seen *pluginv1.Request
	p := &scripted{limit: 8, request: func(_ int, hook pluginv1.Hook, r *pluginv1.Request) (*pluginv1.Decision, error) {
		if hook == pluginv1.Hook_HOOK_POST_AUTH {
			seen = r
		}
		return &pluginv1.Decision{}, nil
	}}
	e := startPlugins(t, p, api("a", "paths: [/a]\nupstreams: [{url: "+echo(t)+"}]")+pluginOf("p", 1, everyHook))
	token := e.tokens.issue("API/a")
	send(t, "POST", e.url+"/a/b?q=1", "hello", "Authorization", "Bearer "+token, "X-Mine", "yes").want(t, 200, "")
	if seen.Path != "/a/b" || seen.Query != "q=1" || seen.Target != "API/a" || string(seen.Body) != "hello" || seen.App.GetName() != "app" || seen.RequestId == "" {
		t.Errorf("seen %v", seen)
	}
	if text := seen.String(); strings.Contains(text, token) || !strings.Contains(text, "X-Mine") {
		t.Errorf("headers %v", seen.Headers)
	}
	send(t, "POST", e.url+"/a", "larger than the limit", "Authorization", "Bearer "+token).want(t, 200, "")
	if !seen.BodyOmitted || seen.Body != nil {
		t.Errorf("a body beyond the limit: omitted %v, %q", seen.BodyOmitted, seen.Body)
	}
}

// TestABodyOfUnknownLengthIsReadUpToTheLimit has bodies that are larger than what may be held of all of them.
func TestABodyOfUnknownLengthIsReadUpToTheLimit(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err == nil {
			w.Write(b)
		}
	})
	var seen [2][]*pluginv1.Request
	p := &scripted{limits: []int64{8, 50_000}, request: func(i int, _ pluginv1.Hook, r *pluginv1.Request) (*pluginv1.Decision, error) {
		seen[i] = append(seen[i], r)
		return &pluginv1.Decision{}, nil
	}}
	e := start(t, Config{MaxBufferedBodies: 200_000, MaxRequestBody: 1_000_000}, "")
	e.Swap(compile(t, api("a", "paths: [/a]\nauth: keyless\nupstreams: [{url: "+up+"}]")+
		pluginOf("p", 1, "hooks: [pre_auth, post_auth]")+pluginOf("q", 2, "hooks: [pre_auth, post_auth]")), p)
	for _, size := range []int{1, 8, 9, 50_000, 50_001, 900_000, 1_000_001} {
		seen = [2][]*pluginv1.Request{}
		body := strings.Repeat("0123456789", size/10+1)[:size]
		req, err := http.NewRequest("POST", e.url+"/a", io.MultiReader(strings.NewReader(body))) // which hides the length
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if size > 1_000_000 {
			reply{resp.StatusCode, resp.Header, string(got)}.want(t, 413, "request_too_large")
		} else if err != nil || resp.StatusCode != 200 || string(got) != body {
			t.Errorf("%d bytes: status %d, %d bytes came back, %v", size, resp.StatusCode, len(got), err)
		}
		for i, limit := range p.limits {
			for _, r := range seen[i] {
				if whole := int64(size) <= limit; r.BodyOmitted == whole || whole && string(r.Body) != body || !whole && len(r.Body) > 0 {
					t.Errorf("%d bytes, limit %d: omitted %v, %d bytes shown", size, limit, r.BodyOmitted, len(r.Body))
				}
			}
			if len(seen[i]) != 2 {
				t.Errorf("%d bytes: plugin %d was asked %d times", size, i, len(seen[i]))
			}
		}
	}
}

func TestBytesThatAreNoTextReachPluginsAllTheSame(t *testing.T) {
	var seen *pluginv1.Request
	p := &scripted{response: func(_ int, r *pluginv1.Response) (*pluginv1.Decision, error) {
		seen = r.Request
		return &pluginv1.Decision{}, nil
	}}
	up := echo(t)
	e := startPlugins(t, p, api("a", "paths: [/a]\nauth: keyless\nupstreams: [{url: "+up+"}]")+llmOf("m", "base_url: "+up)+
		pluginOf("p", 1, "hooks: [pre_auth, post_auth, on_response]\non_failure: closed"))
	raw := func(text string) reply {
		t.Helper()
		seen = nil
		_, r := e.dial(t, text)
		got := answer(t, r)
		if got.want(t, 200, ""); seen == nil {
			t.Fatal("no plugin was asked")
		}
		return got
	}
	raw("GET /a/\xff%2f\u00fc\uFFFD?x=\xe0\x80&y=%fe\xff HTTP/1.1\r\nHost: x\r\nX-Text: \xff\r\n\r\n")
	if seen.Path != "/a/%FF%2f\u00fc\uFFFD" || seen.Query != "x=%E0%80&y=%fe%FF" {
		t.Errorf("seen %v", seen)
	}
	raw("GET http://h\xfe/a HTTP/1.1\r\nHost: x\r\n\r\n")
	if seen.Host != "h\uFFFD" {
		t.Errorf("seen %v", seen)
	}
	body := "{\"model\":\"m/a\xff\"}"
	raw("POST /v1/x HTTP/1.1\r\nHost: x\r\nApi-Key: " + e.tokens.issue("*") + fmt.Sprintf("\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	if seen.Model != "a\uFFFD" {
		t.Errorf("model %q", seen.Model)
	}
}

func TestAPluginChangesRequestAndAnswer(t *testing.T) {
	p := &scripted{limit: 100,
		request: func(_ int, hook pluginv1.Hook, _ *pluginv1.Request) (*pluginv1.Decision, error) {
			if hook != pluginv1.Hook_HOOK_POST_AUTH {
				return &pluginv1.Decision{}, nil
			}
			return &pluginv1.Decision{Modified: true, ReplaceBody: true, Body: []byte("changed"), RemoveHeaders: []string{"x-gone"},
				Headers: []*pluginv1.Header{{Name: "x-added", Values: []string{"yes"}}, {Name: "Content-Length", Values: []string{"1"}},
					{Name: "X-Gw-App", Values: []string{"forged"}}, {Name: "bad name", Values: []string{"x"}}, {Name: "X-Split", Values: []string{"a\r\nb: c"}}}}, nil
		},
		response: func(_ int, r *pluginv1.Response) (*pluginv1.Decision, error) {
			return &pluginv1.Decision{Modified: true, StatusCode: 202, ReplaceBody: true, Body: append([]byte("> "), r.Body...), RemoveHeaders: []string{"X-Up"}}, nil
		}}
	e := startPlugins(t, p, api("a", "paths: [/a]\nauth: keyless\nupstreams: [{url: "+echo(t)+"}]")+pluginOf("p", 1, everyHook))
	for _, body := range []string{"", "original", strings.Repeat("long", 50_000)} {
		r := send(t, "POST", e.url+"/a", body)
		if want := `> POST /a changed auth="" added="yes"`; r.status != 202 || r.body != want || r.header.Get("X-Up") != "" {
			t.Errorf("got  %d %s %v\nwant %s", r.status, r.body, r.header, want)
		}
	}
}

func TestAPluginAnswersByItself(t *testing.T) {
	hits := 0
	up := upstreamServer(t, func(http.ResponseWriter, *http.Request) { hits++ })
	var decision *pluginv1.Decision
	p := &scripted{request: func(int, pluginv1.Hook, *pluginv1.Request) (*pluginv1.Decision, error) { return decision, nil }}
	e := startPlugins(t, p, api("a", "paths: [/a]\nauth: keyless\nupstreams: [{url: "+up+"}]")+pluginOf("p", 1, "hooks: [pre_auth]"))
	for _, c := range []struct {
		d      *pluginv1.Decision
		status int
		code   string
		body   string
	}{
		{&pluginv1.Decision{Block: true}, 403, "blocked_by_plugin", "A plugin refused"},
		{&pluginv1.Decision{Block: true, ErrorMessage: "not on Sundays"}, 403, "blocked_by_plugin", "not on Sundays"},
		{&pluginv1.Decision{Block: true, StatusCode: 429, ResponseBody: []byte("slow down")}, 429, "", "slow down"},
		{&pluginv1.Decision{Block: true, StatusCode: 200, ResponseBody: []byte("cached"), Headers: []*pluginv1.Header{{Name: "X-Cache", Values: []string{"hit"}}}}, 200, "", "cached"},
		{&pluginv1.Decision{Block: true, StatusCode: 204}, 204, "", ""},
		{&pluginv1.Decision{Block: true, StatusCode: 9999}, 403, "blocked_by_plugin", ""},
	} {
		decision = c.d
		r := send(t, "POST", e.url+"/a", "body")
		if r.want(t, c.status, c.code); !strings.Contains(r.body, c.body) {
			t.Errorf("body %q, want %q in it", r.body, c.body)
		}
		if c.status == 200 && r.header.Get("X-Cache") != "hit" {
			t.Errorf("header %v", r.header)
		}
	}
	if hits != 0 {
		t.Errorf("the upstream was asked %d times", hits)
	}
}

func TestAPluginAuthenticates(t *testing.T) {
	p := &scripted{request: func(_ int, hook pluginv1.Hook, r *pluginv1.Request) (*pluginv1.Decision, error) {
		for _, h := range r.Headers {
			switch {
			case hook != pluginv1.Hook_HOOK_AUTH || h.Name != "Authorization":
			case h.Values[0] == "Basic good":
				return &pluginv1.Decision{Authenticated: &pluginv1.App{Id: "u1", Name: "ann"}}, nil
			case h.Values[0] == "Basic narrow":
				return &pluginv1.Decision{Authenticated: &pluginv1.App{Id: "u2", Name: "bob", Targets: []string{"API/other"}}}, nil
			case h.Values[0] == "Basic bad":
				return &pluginv1.Decision{Block: true}, nil
			}
		}
		return &pluginv1.Decision{}, nil
	}}
	up := echo(t)
	e := startPlugins(t, p, api("a", "paths: [/a]\nupstreams: [{url: "+up+"}]")+llmOf("m", "base_url: "+up)+pluginOf("p", 1, "hooks: [auth]"))
	r := send(t, "GET", e.url+"/a", "", "Authorization", "Basic good")
	if r.want(t, 200, ""); !strings.Contains(r.body, `auth=""`) {
		t.Errorf("the credential reached the upstream: %s", r.body)
	}
	send(t, "GET", e.url+"/a", "", "Authorization", "Basic bad").want(t, 401, "blocked_by_plugin")
	send(t, "GET", e.url+"/a", "", "Authorization", "Basic narrow").want(t, 403, "target_not_allowed")
	send(t, "GET", e.url+"/a", "", "Authorization", "Basic unknown").want(t, 401, "invalid_api_key")
	send(t, "GET", e.url+"/a", "", "Authorization", "Bearer "+e.tokens.issue("*")).want(t, 200, "")
	send(t, "POST", e.url+"/v1/chat/completions", `{"model":"m/gpt"}`, "Authorization", "Basic good", "Content-Type", "application/json").want(t, 200, "")
	send(t, "POST", e.url+"/v1/chat/completions", `{"model":"none/gpt"}`, "Authorization", "Basic good", "Content-Type", "application/json").want(t, 401, "invalid_api_key")
	send(t, "POST", e.url+"/llm/m/v1/chat/completions", `{"model":"gpt"}`, "Authorization", "Basic good", "Content-Type", "application/json").want(t, 200, "")
	send(t, "GET", e.url+"/v1/models", "", "Authorization", "Basic good").want(t, 401, "invalid_api_key")
}

// TestCallersCredentialsStayAndThoseOfPluginsDoNot has callers whom a token or a plugin makes known, and plugins that set
// what the upstream wants to see.
func TestCallersCredentialsStayAndThoseOfPluginsDoNot(t *testing.T) {
	upstreams := map[string]string{"Authorization": "Bearer for-the-upstream"}
	other := map[string]string{"X-Added": "yes"}
	edit := func(h map[string]string) *pluginv1.Decision {
		d := &pluginv1.Decision{Modified: h != nil}
		for name, value := range h {
			d.Headers = append(d.Headers, &pluginv1.Header{Name: name, Values: []string{value}})
		}
		return d
	}
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("Authorization"), r.Header.Get("X-Api-Key"))
	})
	for name, c := range map[string]struct {
		path, authorization string
		atAuth, atPostAuth  map[string]string // what the plugin sets
		replace             bool              // the body too, at auth
		want                string
	}{
		"a token":                    {"/a", "gw", nil, nil, false, ""},
		"a token, and post_auth":     {"/a", "gw", nil, upstreams, false, "Bearer for-the-upstream"},
		"vouched":                    {"/a", "Basic x", nil, nil, false, ""},
		"vouched, another header":    {"/a", "Basic x", other, nil, false, ""},
		"vouched, another body":      {"/a", "Basic x", nil, nil, true, ""},
		"vouched with a credential":  {"/a", "Basic x", upstreams, nil, false, "Bearer for-the-upstream"},
		"vouched, and post_auth":     {"/a", "Basic x", nil, upstreams, false, "Bearer for-the-upstream"},
		"LLM: a token":               {"/llm/m", "gw", nil, nil, false, ""},
		"LLM: a token and post_auth": {"/llm/m", "gw", nil, upstreams, false, "Bearer for-the-upstream"},
		"LLM: vouched":               {"/llm/m", "Basic x", other, nil, false, ""},
		"LLM: vouched with one":      {"/llm/m", "Basic x", upstreams, nil, false, "Bearer for-the-upstream"},
		"LLM of any name":            {"/v1/x", "gw", nil, upstreams, false, "Bearer for-the-upstream"},
		"LLM of any name, vouched":   {"/v1/x", "Basic x", nil, upstreams, false, "Bearer for-the-upstream"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &scripted{request: func(_ int, hook pluginv1.Hook, r *pluginv1.Request) (*pluginv1.Decision, error) {
				if hook == pluginv1.Hook_HOOK_POST_AUTH {
					if strings.Contains(r.String(), "Basic") {
						t.Errorf("post_auth is shown the credential: %v", r)
					}
					return edit(c.atPostAuth), nil
				}
				if c.authorization == "gw" {
					return &pluginv1.Decision{}, nil
				}
				d := edit(c.atAuth)
				d.Authenticated = &pluginv1.App{Id: "u", Name: "ann"}
				if c.replace {
					d.Modified, d.ReplaceBody, d.Body = true, true, []byte("new")
				}
				return d, nil
			}}
			e := startPlugins(t, p, api("a", "paths: [/a]\nupstreams: [{url: "+up+"}]")+llmOf("m", "base_url: "+up)+pluginOf("p", 1, "hooks: [auth, post_auth]"))
			authorization, apiKey := c.authorization, "caller's"
			if authorization == "gw" {
				authorization = "Bearer " + e.tokens.issue("*")
			}
			if c.path == "/a" && c.authorization == "gw" {
				apiKey = "" // it is for the API
			}
			r := send(t, "POST", e.url+c.path, `{"model":"m/x"}`, "Authorization", authorization, "X-Api-Key", apiKey, "Content-Type", "application/json")
			if r.status != 200 || r.body != c.want {
				t.Errorf("%d, the upstream got %q, want %q", r.status, r.body, c.want)
			}
		})
	}
}

// TestCallersDoNotTakeOffWhatPluginsSet has callers who say that the plugin's header is one of their connection.
func TestCallersDoNotTakeOffWhatPluginsSet(t *testing.T) {
	p := &scripted{request: func(int, pluginv1.Hook, *pluginv1.Request) (*pluginv1.Decision, error) {
		return &pluginv1.Decision{Modified: true, Headers: []*pluginv1.Header{{Name: "X-Added", Values: []string{"by the plugin"}}}}, nil
	}}
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s, %s, upgrade to %q, mine %q", r.Header["Connection"], r.Header["X-Added"], r.Header["Upgrade"], r.Header["X-Mine"])
	})
	e := startPlugins(t, p, api("a", "paths: [/a]\nauth: keyless\nupstreams: [{url: "+up+"}]")+pluginOf("p", 1, "hooks: [pre_auth, post_auth]"))
	for connection, want := range map[string]string{
		"Connection: X-Added, x-mine":                                   `[], [by the plugin], upgrade to [], mine []`,
		"Connection: x-mine, upgrade, X-Added\r\nUpgrade: websocket":    `[Upgrade], [by the plugin], upgrade to ["websocket"], mine []`,
		"Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: h2c": `[], [by the plugin], upgrade to [], mine ["1"]`,
	} {
		_, r := e.dial(t, "GET /a HTTP/1.1\r\nHost: x\r\nX-Added: by the caller\r\nX-Mine: 1\r\n"+connection+"\r\n\r\n")
		if got := answer(t, r); got.body != want {
			t.Errorf("%q\ngot  %s\nwant %s", connection, got.body, want)
		}
	}
}

func TestABodyOfAPluginKeepsItsEncoding(t *testing.T) {
	encoded := func(encoding string) *pluginv1.Decision {
		d := &pluginv1.Decision{Modified: true, ReplaceBody: true, Body: []byte("new")}
		if encoding != "" {
			d.Headers = []*pluginv1.Header{{Name: "Content-Encoding", Values: []string{encoding}}}
		}
		return d
	}
	for _, encoding := range []string{"", "br"} {
		p := &scripted{
			request:  func(int, pluginv1.Hook, *pluginv1.Request) (*pluginv1.Decision, error) { return encoded(encoding), nil },
			response: func(int, *pluginv1.Response) (*pluginv1.Decision, error) { return encoded(encoding), nil },
		}
		got := make(chan string, 1)
		up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
			got <- r.Header.Get("Content-Encoding")
			w.Header().Set("Content-Encoding", "zstd")
			io.WriteString(w, "old")
		})
		e := startPlugins(t, p, api("a", "paths: [/a]\nauth: keyless\nupstreams: [{url: "+up+"}]")+pluginOf("p", 1, "hooks: [post_auth, on_response]"))
		r := send(t, "POST", e.url+"/a", "old", "Content-Encoding", "zstd")
		if request := <-got; request != encoding || r.header.Get("Content-Encoding") != encoding || r.body != "new" {
			t.Errorf("%q: upstream got %q, caller %q with %q", encoding, request, r.header.Get("Content-Encoding"), r.body)
		}
	}
}

func TestAFailingPluginFailsAsItsResourceSays(t *testing.T) {
	broken := errors.New("not running")
	p := &scripted{
		request:  func(int, pluginv1.Hook, *pluginv1.Request) (*pluginv1.Decision, error) { return nil, broken },
		response: func(int, *pluginv1.Response) (*pluginv1.Decision, error) { return nil, broken },
	}
	for _, c := range []struct {
		hook, on string
		status   int
	}{
		{"pre_auth", "closed", 503}, {"pre_auth", "open", 200}, {"auth", "closed", 503}, {"auth", "open", 200},
		{"post_auth", "closed", 503}, {"post_auth", "open", 200}, {"on_response", "closed", 503}, {"on_response", "open", 200},
	} {
		t.Run(c.hook+" "+c.on, func(t *testing.T) {
			yaml := api("a", "paths: [/a]\nupstreams: [{url: "+echo(t)+"}]") + pluginOf("p", 1, "hooks: ["+c.hook+"]\non_failure: "+c.on)
			for name, e := range map[string]*edge{"failing": startPlugins(t, p, yaml), "not there": start(t, Config{}, yaml)} {
				r := send(t, "GET", e.url+"/a", "", "Authorization", "Bearer "+e.tokens.issue("*"))
				code := ""
				if c.status == 503 {
					code = "plugin_failed"
				}
				if r.status != c.status || r.code() != code {
					t.Errorf("%s: got %d %s, want %d %s", name, r.status, r.body, c.status, code)
				}
				if c.hook == "auth" && c.on == "open" {
					send(t, "GET", e.url+"/a", "").want(t, 401, "invalid_api_key")
				}
			}
		})
	}
}

// Vendors often send documents without saying how long they are.
func TestADocumentOfUnknownLengthIsShownWhole(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.URL.Query().Get("type"))
		size, _ := strconv.Atoi(r.URL.Query().Get("size"))
		for sent := 0; sent < size; sent += 50_000 {
			_, _ = io.WriteString(w, strings.Repeat("x", min(50_000, size-sent)))
			_ = http.NewResponseController(w).Flush()
		}
	})
	var shown *pluginv1.Response
	p := &scripted{limit: 4 << 20, response: func(_ int, r *pluginv1.Response) (*pluginv1.Decision, error) {
		shown = proto.CloneOf(r)
		return &pluginv1.Decision{}, nil
	}}
	e := startPlugins(t, p, api("a", "paths: [/a]\nauth: keyless\nupstreams: [{url: "+up+"}]")+pluginOf("p", 1, "hooks: [on_response]"))
	for _, c := range []struct {
		kind           string
		size           int
		whole, streams bool
	}{
		{"application/json", 100_000, true, false},
		{"application/problem+json; charset=utf-8", 10, true, false},
		{"text/plain", 4 << 20, true, false},
		{"application/json", 4<<20 + 1, false, true},
		{"text/event-stream", 100_000, false, true},
		{"application/x-ndjson", 100_000, false, true},
		{"application/octet-stream", 100_000, false, true},
	} {
		r := send(t, "GET", fmt.Sprintf("%s/a?size=%d&type=%s", e.url, c.size, url.QueryEscape(c.kind)), "")
		if r.status != 200 || len(r.body) != c.size {
			t.Errorf("%s of %d bytes: %d bytes arrived, status %d", c.kind, c.size, len(r.body), r.status)
		}
		if whole := len(shown.Body) == c.size; whole != c.whole || shown.Streams != c.streams || shown.BodyOmitted == c.whole {
			t.Errorf("%s of %d bytes: %d shown, omitted %v, streams %v", c.kind, c.size, len(shown.Body), shown.BodyOmitted, shown.Streams)
		}
	}
}

func TestPiecesOfAStreamAreShownOnlyToWhoAsks(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
		}
	})
	var mu sync.Mutex
	seen := uint64(0)
	p := &scripted{chunk: func(_ int, c *pluginv1.StreamChunk) (*pluginv1.StreamChunkDecision, error) {
		mu.Lock()
		defer mu.Unlock()
		seen = c.Sequence + 1
		return &pluginv1.StreamChunkDecision{Modified: true, Data: []byte(strings.ReplaceAll(string(c.Data), "data", "DATA"))}, nil
	}}
	e := startPlugins(t, p, api("a", "paths: [/a]\nauth: keyless\nupstreams: [{url: "+up+"}]")+api("b", "paths: [/b]\nauth: keyless\nupstreams: [{url: "+up+"}]")+
		pluginOf("p", 1, "hooks: [on_stream_chunk]\nscope: {apis: [a]}"))
	if r := send(t, "GET", e.url+"/a", ""); r.body != "DATA: 0\n\nDATA: 1\n\nDATA: 2\n\n" || seen == 0 {
		t.Errorf("got %q, %d pieces", r.body, seen)
	}
	seen = 0
	if r := send(t, "GET", e.url+"/b", ""); r.body != "data: 0\n\ndata: 1\n\ndata: 2\n\n" || seen != 0 {
		t.Errorf("out of scope: %q, %d pieces", r.body, seen)
	}
}

// TestAStreamThatAPluginEndsIsAnErrorOnlyBetweenEvents has plugins that end a stream of a model at its second piece.
func TestAStreamThatAPluginEndsIsAnErrorOnlyBetweenEvents(t *testing.T) {
	const failed = `data: {"error":`
	for name, c := range map[string]struct {
		pieces [2]string
		shown  string // in the place of the first
		want   string // what arrives before the error
		border bool
	}{
		"between":                    {[2]string{"data: 1\n\n", "data: 2"}, "data: 1\n\n", "data: 1\n\n", true},
		"within":                     {[2]string{"data: 1", "\n\n"}, "data: 1", "data: 1", false},
		"between, by the plugin":     {[2]string{"data: 1\n\ndata: 2", "3"}, "data: 1\n\n", "data: 1\n\n", true},
		"within, by the plugin":      {[2]string{"data: 1\n\n", "data: 2\n\n"}, "data: 1\n", "data: 1\n", false},
		"nothing, held back by them": {[2]string{"data: 1", "\n\n"}, "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{})
			up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				io.WriteString(w, c.pieces[0])
				_ = http.NewResponseController(w).Flush()
				<-asked
				io.WriteString(w, c.pieces[1])
			})
			p := &scripted{chunk: func(_ int, chunk *pluginv1.StreamChunk) (*pluginv1.StreamChunkDecision, error) {
				if chunk.Sequence == 0 {
					defer close(asked)
					return &pluginv1.StreamChunkDecision{Modified: true, Data: []byte(c.shown)}, nil
				}
				return &pluginv1.StreamChunkDecision{Block: true}, nil
			}}
			e := startPlugins(t, p, llmOf("m", "base_url: "+up)+pluginOf("p", 1, "hooks: [on_stream_chunk]"))
			_, r := e.dial(t, "GET /llm/m/x HTTP/1.1\r\nHost: x\r\nApi-Key: "+e.tokens.issue("*")+"\r\n\r\n")
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			text, event, found := strings.Cut(string(got), failed)
			if text != c.want || found != c.border || (err == nil) != c.border || found && !strings.HasSuffix(event, "\n\n") {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestUpstreamsAreAskedForAnswersThatPluginsCanRead(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("Accept-Encoding")) })
	for _, c := range []struct {
		hook  string
		limit int64
		want  string
	}{{"on_stream_chunk", 0, "identity"}, {"on_response", 100, "identity"}, {"on_response", 0, "gzip"}, {"post_auth", 100, "gzip"}} {
		e := startPlugins(t, &scripted{limit: c.limit}, api("a", "paths: [/a]\nauth: keyless\nupstreams: [{url: "+up+"}]")+pluginOf("p", 1, "hooks: ["+c.hook+"]"))
		if r := send(t, "GET", e.url+"/a", "", "Accept-Encoding", "gzip"); r.body != c.want {
			t.Errorf("%s of %d bytes: the upstream was asked for %q, want %q", c.hook, c.limit, r.body, c.want)
		}
	}
}

// TestACallerWhoTakesNoAnswerOfAPluginIsLeft has a caller who never reads.
func TestACallerWhoTakesNoAnswerOfAPluginIsLeft(t *testing.T) {
	body := make([]byte, 32<<20)
	asked := make(chan struct{})
	p := &scripted{request: func(int, pluginv1.Hook, *pluginv1.Request) (*pluginv1.Decision, error) {
		close(asked)
		return &pluginv1.Decision{Block: true, StatusCode: 200, ResponseBody: body}, nil
	}}
	e := startPlugins(t, p, api("a", "paths: [/a]\nauth: keyless\nupstreams: [{url: "+echo(t)+"}]\ntimeouts: {idle: 50ms}")+pluginOf("p", 1, "hooks: [pre_auth]"))
	e.dial(t, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
	<-asked
	lines := e.lines(t) // waits until the request is over
	if len(lines) != 1 || lines[0]["error"] != "client_gone" {
		t.Errorf("logged %v", lines)
	}
}

func TestAnswersOfPluginsCountAsHeld(t *testing.T) {
	large := make([]byte, 150_000)
	p := &scripted{
		request: func(_ int, hook pluginv1.Hook, r *pluginv1.Request) (*pluginv1.Decision, error) {
			return &pluginv1.Decision{Block: r.Query == "block", StatusCode: 200, ResponseBody: large}, nil
		},
		response: func(int, *pluginv1.Response) (*pluginv1.Decision, error) {
			return &pluginv1.Decision{Modified: true, ReplaceBody: true, Body: large}, nil
		},
	}
	e := start(t, Config{MaxBufferedBodies: 200_000}, "")
	e.Swap(compile(t, api("a", "paths: [/a]\nauth: keyless\nupstreams: [{url: "+echo(t)+"}]")+pluginOf("p", 1, "hooks: [pre_auth, on_response]")), p)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, query := range []string{"", "block"} {
		r := send(t, "GET", e.url+"/a?"+query, "")
		if r.status != 200 || len(r.body) != len(large) {
			t.Errorf("%q: got %d with %d bytes", query, r.status, len(r.body))
		}
		if err := e.memory.Acquire(ctx, 100_000); err != nil { // soon: a caller has all of an answer before the request is over
			t.Fatalf("%q: memory was not given back: %v", query, err)
		}
		send(t, "GET", e.url+"/a?"+query, "").want(t, 503, "overloaded")
		e.memory.Release(100_000)
	}
}

// TestARefusedUpgradeIsShownToPlugins has an upstream that answers a request for a WebSocket as any other.
func TestARefusedUpgradeIsShownToPlugins(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/a/events" {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		io.WriteString(w, "data: secret\n\n")
	})
	p := &scripted{limit: 100,
		response: func(_ int, r *pluginv1.Response) (*pluginv1.Decision, error) {
			return &pluginv1.Decision{Modified: true, ReplaceBody: true, Body: append([]byte("> "), r.Body...), StatusCode: 202}, nil
		},
		chunk: func(_ int, c *pluginv1.StreamChunk) (*pluginv1.StreamChunkDecision, error) {
			return &pluginv1.StreamChunkDecision{Modified: true, Data: bytes.ToUpper(c.Data)}, nil
		}}
	e := startPlugins(t, p, api("a", "paths: [/a]\nauth: keyless\nupstreams: [{url: "+up+"}]")+pluginOf("p", 1, "hooks: [on_response, on_stream_chunk]"))
	for path, want := range map[string]string{"/a": "> data: secret\n\n", "/a/events": "DATA: SECRET\n\n"} {
		_, r := e.dial(t, strings.Replace(askForWebSocket, "/x", path, 1))
		if got := answer(t, r); got.status != 202 || got.body != want {
			t.Errorf("%s: got %d %q", path, got.status, got.body)
		}
	}
	if n := e.streams.len(); n != 0 {
		t.Errorf("%d streams are left", n)
	}
}

func TestARequestThatMeetsEndedPluginsTakesTheNewerTable(t *testing.T) {
	old, next := &scripted{}, &scripted{}
	yaml := api("a", "paths: [/a]\nauth: keyless\nupstreams: [{url: "+echo(t)+"}]") + pluginOf("p", 1, "hooks: [pre_auth]")
	e := startPlugins(t, old, yaml)
	stale := e.serving.Load()
	e.Swap(compile(t, yaml), next)
	old.gone.Store(true)
	x := &exchange{g: e.Gateway, serving: stale}
	x.hold()
	if !x.held || x.serving == stale || next.holds.Load() != 1 {
		t.Errorf("held %v of the newer table %v", x.held, x.serving != stale)
	}
	next.Release()
}

func TestWrongPluginsDoNotCompile(t *testing.T) {
	for _, c := range []struct{ name, yaml, want string }{
		{"the same ID", pluginOf("a", 1, "hooks: [auth]") + pluginOf("b", 1, "hooks: [auth]"), "Plugin/b spec.id: 1 is the ID of Plugin/a too"},
		{"a hub plugin", strings.Replace(pluginOf("a", 1, "type: hub"), "{name: a}", "{name: a, namespace: global}", 1), "Plugin/a spec.type: is that of a plugin which no edge runs"},
	} {
		if _, err := Compile(snapshot(t, c.yaml)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
	table := compile(t, pluginOf("a", 1, "hooks: [auth]")+api("x", "paths: [/x]\nupstreams: [{url: http://u}]"))
	if table.Len() != 2 || len(table.Plugins()) != 1 {
		t.Errorf("%d resources, %d plugins", table.Len(), len(table.Plugins()))
	}
}

// An upstream that stops in the middle of an answer that plugins are to see whole was too slow, not broken.
func TestAnUpstreamThatStopsBeforePluginsHaveSeenItIsSlow(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	p := &scripted{limit: 1000, response: func(int, *pluginv1.Response) (*pluginv1.Decision, error) {
		t.Error("a plugin is shown half an answer")
		return nil, nil
	}}
	e := startPlugins(t, p, api("a", "paths: [/a]\nauth: keyless\nupstreams: [{url: "+up+"}]\ntimeouts: {idle: 50ms}")+pluginOf("p", 1, "hooks: [on_response]"))
	send(t, "GET", e.url+"/a", "").want(t, http.StatusGatewayTimeout, "upstream_timeout")
}
