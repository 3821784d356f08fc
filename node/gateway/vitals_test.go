package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestVitalsCountWhatWasAnsweredAndByWhom(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/a/missing":
			w.WriteHeader(http.StatusNotFound)
		case "/a/broken":
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	e := start(t, Config{}, fmt.Sprintf("apiVersion: gw/v1\nkind: API\nmetadata: {name: a}\nspec: {paths: [/a], auth: keyless, upstreams: [{url: %q}]}\n", up)+
		"---\napiVersion: gw/v1\nkind: API\nmetadata: {name: t}\nspec: {paths: [/t], upstreams: [{url: \"http://127.0.0.1:1\"}]}\n")
	for _, path := range []string{"/a/fine", "/a/missing", "/a/broken", "/t/", "/nowhere"} {
		send(t, http.MethodGet, e.url+path, "")
	}
	e.stop()
	v := e.Vitals()
	total := uint64(0)
	for _, n := range v.Latency {
		total += n
	}
	if v.Requests != 5 || v.Errors != 1 || v.Refused != 2 || total != 5 || v.ActiveRequests != 0 || v.ActiveStreams != 0 {
		t.Errorf("got %+v; want 5 requests, 1 error, 2 refused", v)
	}
}

func TestTooManyUnknownTokensAreAskedToComeBack(t *testing.T) {
	e := start(t, Config{}, llmOf("m", `base_url: "http://127.0.0.1:1"`))
	token := e.tokens.issue("*")
	e.tokens.fail = &Throttled{RetryAfter: 7 * time.Second}
	r := send(t, http.MethodPost, e.url+"/llm/m/v1/chat/completions", "{}", "Authorization", "Bearer "+token)
	if r.status != http.StatusTooManyRequests || r.code() != "rate_limit_exceeded" || r.header.Get("Retry-After") != "7" || !strings.Contains(r.body, "rate_limit_error") {
		t.Errorf("got %d %v %s", r.status, r.header, r.body)
	}
}

func TestATargetWhoseUpstreamFailsIsNamed(t *testing.T) {
	up := upstreamServer(t, func(http.ResponseWriter, *http.Request) {})
	var seconds atomic.Int64
	began := time.Now()
	clock := func() time.Time { return began.Add(time.Duration(seconds.Load()) * time.Second) }
	e := start(t, Config{Now: clock}, fmt.Sprintf("apiVersion: gw/v1\nkind: API\nmetadata: {name: up}\nspec: {paths: [/up], auth: keyless, upstreams: [{url: %q}]}\n", up)+
		"---\napiVersion: gw/v1\nkind: API\nmetadata: {name: down}\nspec: {paths: [/down], auth: keyless, upstreams: [{url: \"http://127.0.0.1:1\"}]}\n")
	look := func(want string) {
		t.Helper()
		seconds.Add(30)
		if got := fmt.Sprint(e.FailingUpstreams()); got != want {
			t.Errorf("failing: %s, want %s", got, want)
		}
	}
	all := func(n int) {
		for range n {
			send(t, http.MethodGet, e.url+"/up/", "")
			send(t, http.MethodGet, e.url+"/down/", "")
		}
	}
	look("[]")
	all(failingLeast)
	look("[{API/down 5 5 30s}]")
	all(failingLeast - 1)
	look("[]")
}
