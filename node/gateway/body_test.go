package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

func answer(t *testing.T, r *bufio.Reader) reply {
	t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(body)}
}

// TestBodiesThatAreReadShareTheirMemory holds most of it with one request and asks for the rest with others.
func TestBodiesThatAreReadShareTheirMemory(t *testing.T) {
	v := &vendor{}
	up := upstreamServer(t, v.ServeHTTP)
	e := start(t, Config{MaxBufferedBodies: 100_000}, llmOf("free", "base_url: "+up))
	token := e.tokens.issue("LLM/*")
	body := `{"model":"free/m","x":"` + strings.Repeat("x", 60_000) + `"}`
	for range 3 {
		conn, r := e.dial(t, fmt.Sprintf("POST /v1/x HTTP/1.1\r\nHost: x\r\nApi-Key: %s\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", token, len(body)))
		if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 100 {
			t.Fatalf("got %v, %v", resp, err)
		}
		refused := send(t, "POST", e.url+"/v1/x", body, "Api-Key", token)
		refused.want(t, 503, "overloaded")
		if refused.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		send(t, "POST", e.url+"/v1/x", `{"model":"free/m"}`, "Api-Key", token).want(t, 200, "")
		if _, err := io.WriteString(conn, body); err != nil {
			t.Fatal(err)
		}
		answer(t, r).want(t, 200, "")
		conn.Close()
	}
	_, r := e.dial(t, "POST /v1/x HTTP/1.1\r\nHost: x\r\nApi-Key: "+token+"\r\nTransfer-Encoding: chunked\r\n\r\n"+
		fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", 2*len(body), body+body))
	answer(t, r).want(t, 503, "overloaded")
	e.stop()
	if !e.memory.TryAcquire(100_000) {
		t.Error("memory was not given back")
	}
}

// TestAnAppWithoutLLMsIsRefusedUnread announces a body that never comes.
func TestAnAppWithoutLLMsIsRefusedUnread(t *testing.T) {
	e, _, _ := llmEdge(t, &vendor{})
	for _, targets := range [][]string{nil, {"API/*", "API/LLM/x"}} {
		_, r := e.dial(t, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nApi-Key: "+e.tokens.issue(targets...)+"\r\nContent-Length: 1000\r\n\r\n")
		answer(t, r).want(t, 403, "target_not_allowed")
	}
	send(t, "POST", e.url+"/v1/x", `{"model":"free/m"}`, "Api-Key", e.tokens.issue("*")).want(t, 200, "")
}

func TestAnEscapedPathListsModelsToo(t *testing.T) {
	e, _, token := llmEdge(t, &vendor{})
	for _, path := range []string{"/v1/%6dodels/acme/gpt-5", "/%761/models/acme%2Fgpt-5", "/v1/models/acme/gpt%2d5", "/v1/%6d%6f%64%65%6c%73/acme/gpt-5"} {
		if r := send(t, "GET", e.url+path, "", "Api-Key", token); r.status != 200 || !strings.Contains(r.body, `"id":"acme/gpt-5"`) {
			t.Errorf("%s: got %+v", path, r)
		}
	}
	if r := send(t, "GET", e.url+"/v1/%6dodels", "", "Api-Key", token); r.status != 200 || !strings.Contains(r.body, "acme/org/tiny") {
		t.Errorf("got %+v", r)
	}
}
