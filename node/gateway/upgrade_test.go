package gateway

import (
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/coder/websocket"
)

const askForWebSocket = "GET /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"

func TestASwitchToAnotherProtocolIsRefused(t *testing.T) {
	for _, protocol := range []string{"h2c", "websocket, h2c", ""} {
		up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n")
			io.Copy(io.Discard, conn)
		})
		e := start(t, Config{}, keyless(up, ""))
		_, r := e.dial(t, askForWebSocket)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%q: %v", protocol, err)
		}
		body, _ := io.ReadAll(resp.Body)
		reply{resp.StatusCode, resp.Header, string(body)}.want(t, 502, "upstream_broken")
	}
}

func TestHeadersOfUpgradesAreThoseOfOtherRequests(t *testing.T) {
	got := make(chan http.Header, 2)
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header
		w.Header().Set("X-Gw-Error", "1")
		w.Header().Set("X-Gw-Request-Id", "theirs")
		w.WriteHeader(403)
	})
	e := start(t, Config{}, keyless(up, "request_headers: {set: {X-Forwarded-For: edited}, remove: [X-Forwarded-Host], add: {X-Forwarded-Proto: more}}"))
	for _, upgrade := range []bool{true, false} {
		text := askForWebSocket
		if !upgrade {
			text = "GET /x HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"
		}
		_, r := e.dial(t, text)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if id := resp.Header["X-Gw-Request-Id"]; resp.StatusCode != 403 || resp.Header["X-Gw-Error"] != nil || len(id) != 1 || id[0] == "theirs" {
			t.Errorf("upgrade %v: got %d %v", upgrade, resp.StatusCode, resp.Header)
		}
		h := <-got
		if f, p := h["X-Forwarded-For"], h["X-Forwarded-Proto"]; len(f) != 1 || f[0] != "edited" || h["X-Forwarded-Host"] != nil || len(p) != 2 || p[1] != "more" {
			t.Errorf("upgrade %v: upstream got %v", upgrade, h)
		}
		if (h["Upgrade"] != nil) != upgrade {
			t.Errorf("upgrade %v: upstream got %v", upgrade, h)
		}
	}
}

// TestWebSocketsOfUpstreamsThatSpeakHTTP2 has an upstream that is reached over HTTP/2 before the WebSocket is asked for.
func TestWebSocketsOfUpstreamsThatSpeakHTTP2(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			io.WriteString(w, r.Proto)
			return
		}
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.CloseNow()
		kind, b, err := ws.Read(r.Context())
		if err != nil {
			t.Error(err)
			return
		}
		if err := ws.Write(r.Context(), kind, b); err != nil {
			t.Error(err)
		}
		ws.Close(websocket.StatusNormalClosure, "")
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	e := start(t, Config{UpstreamRoots: roots}, keyless(s.URL, ""))
	for range 2 {
		if r := send(t, "GET", e.url, ""); r.body != "HTTP/2.0" {
			t.Errorf("got %+v", r)
		}
		ws, _, err := websocket.Dial(t.Context(), e.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := ws.Write(t.Context(), websocket.MessageText, []byte("hi")); err != nil {
			t.Fatal(err)
		}
		if _, b, err := ws.Read(t.Context()); err != nil || string(b) != "hi" {
			t.Errorf("got %q, %v", b, err)
		}
		ws.CloseNow()
	}
}
