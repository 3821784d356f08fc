package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// dial connects to the edge and sends text as it is. Whatever is done with the connection fails after ten seconds.
func (e *edge) dial(t *testing.T, text string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(e.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn), bufio.NewReader(conn)
}

// TestACallerWhoLeavesGetsNoAnswer has callers who close their half of the connection, and could read an answer that
// nobody gave.
func TestACallerWhoLeavesGetsNoAnswer(t *testing.T) {
	entered := make(chan struct{}, 10)
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		entered <- struct{}{}
		<-r.Context().Done()
	})
	e := start(t, Config{}, keyless(up, ""))
	for _, c := range []struct {
		name, request string
		waits         bool
	}{
		{"while waiting", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", true},
		{"in a short body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345", false},
		{"in a long body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n12345", false},
		{"in a chunk", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123", false},
	} {
		conn, r := e.dial(t, c.request)
		if c.waits {
			<-entered
		}
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); len(b) > 0 || err != nil {
			t.Errorf("%s: got %q, %v", c.name, b, err)
		}
	}
	for _, line := range e.lines(t) {
		if line["status"] != 499.0 || line["error"] != "client_gone" {
			t.Errorf("log: %v", line)
		}
	}
}

func TestAMalformedBodyIsRefused(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	e := start(t, Config{}, keyless(up, "")+llmOf("l", "base_url: "+up+"\nmodels: [{name: m}]"))
	token := e.tokens.issue("*")
	for _, path := range []string{"/", "/llm/l/v1/x"} {
		_, r := e.dial(t, "POST "+path+" HTTP/1.1\r\nHost: x\r\nX-Api-Key: "+token+"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX\r\nzz\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		body, _ := io.ReadAll(resp.Body)
		reply{resp.StatusCode, resp.Header, string(body)}.want(t, 400, "malformed_request")
		if !resp.Close {
			t.Errorf("%s: the connection stays open", path)
		}
	}
}

// TestABodyThatNeverComesHoldsNobodyUp announces bodies of which nothing is sent.
func TestABodyThatNeverComesHoldsNobodyUp(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/early" {
			w.Header().Set("Connection", "close")
			w.WriteHeader(401)
			return
		}
		io.Copy(io.Discard, r.Body)
	})
	e := start(t, Config{MaxRequestBody: 200_000}, keyless(up, "timeouts: {idle: 50ms}")+
		api("b", "paths: [/token]\nupstreams: [{url: '"+up+"'}]")+llmOf("l", "base_url: "+up))
	token := e.tokens.issue("LLM/*")
	for _, c := range []struct {
		request, framing string
		status           int
	}{
		{"POST /", "Content-Length: 10", 408},
		{"POST /", "Content-Length: 100000", 408},
		{"POST /", "Content-Length: 300000", 413},
		{"POST /token", "Content-Length: 10", 401},
		{"POST /token", "Transfer-Encoding: chunked", 401},
		{"POST /early", "Transfer-Encoding: chunked", 401},
		{"GET /v1/models", "Content-Length: 10", 200},
	} {
		_, r := e.dial(t, fmt.Sprintf("%s HTTP/1.1\r\nHost: x\r\nApi-Key: %s\r\n%s\r\n\r\n", c.request, strings.Repeat(token, btoi(c.status == 200)), c.framing))
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%v: %v", c, err)
		}
		if resp.StatusCode != c.status || !resp.Close {
			t.Errorf("%v: got %d, close %v", c, resp.StatusCode, resp.Close)
		}
		var timeout net.Error
		if _, err := io.Copy(io.Discard, r); errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%v: the connection was held open", c)
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
