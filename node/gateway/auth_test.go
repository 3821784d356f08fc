package gateway

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"gw/rpc/identity"
)

func TestAuthentication(t *testing.T) {
	got := make(chan http.Header, 8)
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { got <- r.Header })
	e := start(t, Config{}, api("a", "paths: [/a]\nupstreams: [{url: "+up+"}]")+
		api("b", "paths: [/b]\nupstreams: [{url: "+up+"}]")+
		api("open", "paths: [/open]\nauth: keyless\nupstreams: [{url: "+up+"}]")+
		llmOf("m", "base_url: "+up))
	token := e.tokens.issue("API/a")
	every := e.tokens.issue("*")
	apis := e.tokens.issue("API/*")

	send(t, "GET", e.url+"/a", "").want(t, 401, "invalid_api_key")
	garbage := send(t, "GET", e.url+"/a", "", "Authorization", "Bearer "+token[:len(token)-1]+"_")
	garbage.want(t, 401, "invalid_api_key")
	if garbage.header.Get("Www-Authenticate") == "" {
		t.Error("no WWW-Authenticate")
	}
	send(t, "GET", e.url+"/a", "", "Authorization", "Basic "+token).want(t, 401, "invalid_api_key")
	if e.tokens.asked != 0 {
		t.Errorf("garbage reached the authenticator %d times", e.tokens.asked)
	}
	send(t, "GET", e.url+"/a", "", "Authorization", "Bearer "+identity.NewCredential("gw_")).want(t, 401, "invalid_api_key")
	send(t, "GET", e.url+"/b", "", "Authorization", "Bearer "+token).want(t, 403, "target_not_allowed")
	send(t, "GET", e.url+"/llm/m/v1/x", "", "Authorization", "Bearer "+token).want(t, 403, "target_not_allowed")
	send(t, "GET", e.url+"/llm/m/v1/x", "", "Authorization", "Bearer "+apis).want(t, 403, "target_not_allowed")

	for _, h := range [][]string{
		{"Authorization", "Bearer " + token}, {"Authorization", "bearer " + token}, {"X-Api-Key", token}, {"Api-Key", token},
		{"Authorization", "Bearer other", "X-Api-Key", token}, {"Authorization", "Bearer " + token, "Api-Key", every},
	} {
		send(t, "GET", e.url+"/a", "", h...).want(t, 200, "")
		up := <-got
		for name, values := range up {
			for _, v := range values {
				if strings.Contains(v, "gw_") {
					t.Errorf("%v: upstream got %s: %s", h, name, v)
				}
			}
		}
		if h[1] == "Bearer other" && up.Get("Authorization") != "Bearer other" {
			t.Error("the caller's own credential for the upstream was taken away")
		}
	}
	send(t, "GET", e.url+"/open", "", "Authorization", "Bearer "+token, "X-Api-Key", "mine").want(t, 200, "")
	if h := <-got; h.Get("Authorization") != "" || h.Get("X-Api-Key") != "mine" {
		t.Errorf("keyless: upstream got %v", h)
	}

	e.tokens.mu.Lock()
	e.tokens.apps[identity.HashCredential(token)] = NewApp("i", "n", "t", []string{"API/a", "LLM/gone"}, nil)
	e.tokens.mu.Unlock()
	send(t, "GET", e.url+"/llm/gone/v1/x", "", "X-Api-Key", token).want(t, 503, "policy_not_loaded")
	send(t, "GET", e.url+"/llm/never/v1/x", "", "X-Api-Key", token).want(t, 404, "not_found")

	e.tokens.mu.Lock()
	e.tokens.apps[identity.HashCredential(token)] = NewApp("i", "n", "t", []string{"*"}, []string{"limit"})
	e.tokens.mu.Unlock()
	send(t, "GET", e.url+"/a", "", "X-Api-Key", token).want(t, 503, "policy_not_loaded")
	send(t, "GET", e.url+"/v1/models", "", "X-Api-Key", token).want(t, 503, "policy_not_loaded")

	e.tokens.mu.Lock()
	e.tokens.fail = &Unavailable{RetryAfter: 2500 * time.Millisecond}
	e.tokens.mu.Unlock()
	r := send(t, "GET", e.url+"/a", "", "X-Api-Key", token)
	r.want(t, 503, "token_unchecked")
	if r.header.Get("Retry-After") != "3" {
		t.Errorf("Retry-After %q", r.header.Get("Retry-After"))
	}
	if e.tokens.fail = http.ErrBodyNotAllowed; true {
		send(t, "GET", e.url+"/a", "", "X-Api-Key", token).want(t, 503, "token_unchecked")
	}
}

func TestAMissingSecretIsSaid(t *testing.T) {
	e := start(t, Config{}, api("a", "paths: [/a]\nauth: keyless\ncredential: {secret: k}\nupstreams: [{url: http://127.0.0.1:1}]"))
	r := send(t, "GET", e.url+"/a", "")
	r.want(t, 503, "secret_not_loaded")
	if r.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

func TestASecretThatCantStandInAHeaderIsSaid(t *testing.T) {
	secret := ""
	called := 0
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { called++ })
	e := start(t, Config{Secret: func(string) (string, bool) { return secret, true }},
		api("a", "paths: [/a]\nauth: keyless\ncredential: {secret: k}\nupstreams: [{url: '"+up+"'}]"))
	for _, secret = range []string{"key\n", "a\r\nX-Evil: 1", "\x00", "a\x7f"} {
		r := send(t, "GET", e.url+"/a", "")
		r.want(t, 502, "secret_not_usable")
		if strings.Contains(r.body, "key") {
			t.Error("the secret is in the answer")
		}
	}
	if called > 0 {
		t.Error("the upstream was called")
	}
}
