package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func keyless(up, more string) string {
	return api("a", "paths: ['/']\nauth: keyless\nupstreams: [{url: '"+up+"'}]\n"+more)
}

func TestStatusesWithoutBody(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/304":
			w.Header().Set("ETag", `"x"`)
			w.WriteHeader(304)
		case "/204":
			w.WriteHeader(204)
		default:
			w.Header().Set("Content-Length", "7")
			if r.Method != http.MethodHead {
				io.WriteString(w, "content")
			}
		}
	})
	e := start(t, Config{}, keyless(up, ""))
	if r := send(t, "GET", e.url+"/304", ""); r.status != 304 || r.header.Get("Etag") != `"x"` {
		t.Errorf("got %+v", r)
	}
	send(t, "GET", e.url+"/204", "").want(t, 204, "")
	if r := send(t, "HEAD", e.url+"/x", ""); r.status != 200 || r.body != "" || r.header.Get("Content-Length") != "7" {
		t.Errorf("got %+v", r)
	}
	if r := send(t, "GET", e.url+"/x", ""); r.body != "content" {
		t.Errorf("got %+v", r)
	}
}

func TestMethodNotAllowed(t *testing.T) {
	e := start(t, Config{}, api("a", "paths: [/a]\nmethods: [GET, PUT]\nupstreams: [{url: http://h}]"))
	r := send(t, "POST", e.url+"/a", "x")
	r.want(t, 405, "method_not_allowed")
	if r.header.Get("Allow") != "GET, PUT" {
		t.Errorf("Allow %q", r.header.Get("Allow"))
	}
	send(t, "GET", e.url+"/b", "").want(t, 404, "not_found")
}

func TestUpstreamFailures(t *testing.T) {
	hang := make(chan struct{})
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/idle" {
			io.WriteString(w, "first")
			w.(http.Flusher).Flush()
		}
		if r.URL.Path == "/cut" {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "first")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	defer close(hang)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	reg := prometheus.NewRegistry()
	e := start(t, Config{Metrics: reg}, keyless(up, "timeouts: {response_header: 50ms, idle: 50ms}")+
		api("down", "paths: [/down]\nauth: keyless\nupstreams: [{url: 'http://"+closed.Addr().String()+"'}]"))
	send(t, "GET", e.url+"/down", "").want(t, 502, "upstream_unreachable")
	send(t, "GET", e.url+"/slow", "").want(t, 504, "upstream_timeout")
	for _, path := range []string{"/idle", "/cut"} {
		resp, err := http.Get(e.url + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil || string(body) != "first" {
			t.Errorf("%s: got %q, %v; want a broken answer", path, body, err)
		}
	}
	lines := e.lines(t)
	for i, want := range []string{"upstream_unreachable", "upstream_timeout", "upstream_timeout", "upstream_broken"} {
		if lines[i]["error"] != want {
			t.Errorf("log: %v, want %s", lines[i], want)
		}
	}
	if n := testutil.ToFloat64(e.metrics.upstreams.WithLabelValues("API", "a")); n != 3 {
		t.Errorf("%v upstream errors", n)
	}
	if n := testutil.ToFloat64(e.metrics.requests.WithLabelValues("API", "down", "5xx")); n != 1 {
		t.Errorf("%v failed requests", n)
	}
	if got, err := testutil.GatherAndCount(reg, "gw_requests_in_flight", "gw_request_duration_seconds"); err != nil || got < 3 {
		t.Errorf("%d series, %v", got, err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

func TestRequestBodyLimit(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	e := start(t, Config{MaxRequestBody: 100_000}, keyless(up, ""))
	send(t, "POST", e.url+"/", strings.Repeat("x", 100_001)).want(t, 413, "request_too_large")
	if r := send(t, "POST", e.url+"/", strings.Repeat("x", 100_000)); r.body != "100000" {
		t.Errorf("got %+v", r)
	}
	chunked := func(n int) reply {
		req, err := http.NewRequest("POST", e.url, io.NopCloser(io.LimitReader(zeros{}, int64(n))))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return reply{resp.StatusCode, resp.Header, string(body)}
	}
	if r := chunked(100_000); r.body != "100000" {
		t.Errorf("got %+v", r)
	}
	chunked(100_001).want(t, 413, "request_too_large")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestPiecesArriveAsTheyAreSent(t *testing.T) {
	for _, kind := range []string{"text/event-stream", "application/x-ndjson"} {
		next := make(chan struct{})
		up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			for i := range 3 {
				<-next
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
			}
			<-next
		})
		e := start(t, Config{}, keyless(up, ""))
		resp, err := http.Post(e.url, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err) // the header came before anything was sent
		}
		r := bufio.NewReader(resp.Body)
		for i := range 3 {
			next <- struct{}{}
			line, err := r.ReadString('\n')
			if err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("%s: piece %d: %q, %v", kind, i, line, err)
			}
			if _, err := r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		close(next)
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("%s: end: %v", kind, err)
		}
		resp.Body.Close()
	}
}

// TestEventStreamsOfPostsAreNotCutOff has an upstream that answers without reading the request: the answer must reach the
// caller whole all the same.
func TestEventStreamsOfPostsAreNotCutOff(t *testing.T) {
	answer := strings.Repeat("data: x\n\n", 20)
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, answer)
		w.(http.Flusher).Flush()
		io.Copy(io.Discard, r.Body)
	})
	e := start(t, Config{}, keyless(up, ""))
	for _, size := range []int{10, smallBody, smallBody + 1, 300_000} {
		body := bytes.Repeat([]byte("b"), size)
		for i := range 250 {
			var reader io.Reader = bytes.NewReader(body)
			if i%2 == 1 {
				reader = io.NopCloser(reader) // of unknown length
			}
			resp, err := http.Post(e.url, "application/json", reader)
			if err != nil {
				t.Fatalf("size %d, try %d: %v", size, i, err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(got) != answer {
				t.Fatalf("size %d, try %d: %d bytes of %d, %v", size, i, len(got), len(answer), err)
			}
		}
	}
}

func TestALeavingCallerEndsTheUpstreamsWork(t *testing.T) {
	reached, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/stream") {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: 1\n\n")
			w.(http.Flusher).Flush()
		}
		io.Copy(io.Discard, r.Body)
		reached <- struct{}{}
		<-r.Context().Done()
		ended <- struct{}{}
	})
	e := start(t, Config{}, keyless(up, ""))
	for _, c := range []struct {
		path string
		size int
	}{{"/before", 0}, {"/before", 100}, {"/before", 200_000}, {"/stream", 0}, {"/stream", 100}, {"/stream", 200_000}} {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "POST", e.url+c.path, bytes.NewReader(make([]byte, c.size)))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			done <- err
		}()
		<-reached
		cancel()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s with %d bytes: the upstream still works", c.path, c.size)
		}
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", c.path, err)
		}
	}
	for _, line := range e.lines(t) {
		if line["aborted"] != true || line["error"] != "client_gone" || line["path"] == "/before" && line["status"] != 499.0 {
			t.Errorf("log: %v", line)
		}
	}
}

func TestWeights(t *testing.T) {
	var first, second atomic.Int64
	a := upstreamServer(t, func(http.ResponseWriter, *http.Request) { first.Add(1) })
	b := upstreamServer(t, func(http.ResponseWriter, *http.Request) { second.Add(1) })
	e := start(t, Config{}, api("a", "paths: ['/']\nauth: keyless\nupstreams: [{url: '"+a+"', weight: 3}, {url: '"+b+"'}]"))
	for range 400 {
		send(t, "GET", e.url, "").want(t, 200, "")
	}
	// 300 ± 8.7: 6 standard deviations make a false alarm a matter of one in a billion.
	if n := first.Load(); n < 248 || n > 352 || first.Load()+second.Load() != 400 {
		t.Errorf("%d and %d of 400", first.Load(), second.Load())
	}
}

func TestTrailersAndInformationalAnswers(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(103)
		w.Header().Del("Link")
		w.Header().Set("Trailer", "X-Sum")
		io.Copy(w, r.Body)
		w.Header().Set("X-Sum", "1"+r.Trailer.Get("X-Ask"))
	})
	e := start(t, Config{}, keyless(up, ""))
	var hints atomic.Int64
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		if code == 103 && h.Get("Link") == "</style.css>" {
			hints.Add(1)
		}
		return nil
	}})
	req, err := http.NewRequestWithContext(ctx, "POST", e.url, io.NopCloser(strings.NewReader("hello")))
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"X-Ask": {"2"}}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(body) != "hello" || resp.Trailer.Get("X-Sum") != "12" || hints.Load() != 1 || resp.Header.Get("Link") != "" {
		t.Errorf("got %q, %v, trailer %v, %d hints, header %v", body, err, resp.Trailer, hints.Load(), resp.Header)
	}
}

func TestHTTP2Upstream(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s", r.Proto, r.RequestURI, b, r.Header.Get("X-Forwarded-Proto"))
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	e := start(t, Config{UpstreamRoots: roots}, keyless(s.URL, ""))
	for _, body := range []string{"small", strings.Repeat("x", 2*smallBody)} {
		if r := send(t, "POST", e.url+"/a%2Fb?c", body); r.body != "HTTP/2.0 /a%2Fb?c "+body+" http" {
			t.Errorf("got %.80q", r.body)
		}
	}
	wrong := start(t, Config{UpstreamRoots: x509.NewCertPool()}, keyless(s.URL, ""))
	send(t, "GET", wrong.url, "").want(t, 502, "upstream_unreachable")
}

// TestAQueryCantForgeARequest sends queries over HTTP/2, where no line's end or space divides a request's parts.
func TestAQueryCantForgeARequest(t *testing.T) {
	got := make(chan string, 8)
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { got <- r.RequestURI })
	e := start(t, Config{}, keyless(up, ""))
	s := httptest.NewUnstartedServer(e.Gateway)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	for _, query := range []string{"a HTTP/1.1", "a b", " ", "a#b"} {
		req, _ := http.NewRequest("GET", s.URL+"/x", nil)
		req.URL.RawQuery = query
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.ProtoMajor != 2 {
			t.Fatal(resp.Proto)
		}
		reply{resp.StatusCode, resp.Header, string(body)}.want(t, 400, "malformed_query")
	}
	for _, query := range []string{"a\r\nb", "a\tb", "\x7f", "\x00"} { // the server refuses these by itself
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/x", nil)
		r.URL.RawQuery = query
		e.Gateway.ServeHTTP(w, r)
		reply{w.Code, w.Header(), w.Body.String()}.want(t, 400, "malformed_query")
	}
	send(t, "GET", e.url+"/x?a=%20%0a&;é", "").want(t, 200, "")
	if uri := <-got; uri != "/x?a=%20%0a&;é" || len(got) > 0 {
		t.Errorf("upstream got %s and %d more", uri, len(got))
	}
}

func TestSwapLeavesRequestsInFlightAlone(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	old := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-release
		io.WriteString(w, "old")
	})
	e := start(t, Config{}, keyless(old, "response_headers: {set: {X-Table: old}}"))
	done := make(chan reply)
	go func() { done <- send(t, "GET", e.url, "") }()
	<-entered
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "new") })
	e.Swap(compile(t, strings.ReplaceAll(keyless(up, "response_headers: {set: {X-Table: new}}"), "name: a", "name: b")))
	e.SweepUpstreams()
	if r := send(t, "GET", e.url, ""); r.body != "new" || r.header.Get("X-Table") != "new" {
		t.Errorf("got %+v", r)
	}
	close(release)
	if r := <-done; r.body != "old" || r.header.Get("X-Table") != "old" {
		t.Errorf("got %+v", r)
	}
	e.SweepUpstreams()
	if n := len(e.pools.byKey); n != 1 {
		t.Errorf("%d pools", n)
	}
}

func TestCutStreams(t *testing.T) {
	gone := make(chan struct{}, 2)
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			if r.Header.Get("Authorization") != "" || r.Header.Get("X-Forwarded-For") == "" {
				t.Errorf("upstream got %v", r.Header)
			}
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			kind, b, err := c.Read(r.Context())
			if err == nil {
				err = c.Write(r.Context(), kind, append([]byte(r.URL.Path+" "), b...))
			}
			if err != nil {
				t.Error(err)
			}
			_, _, err = c.Read(context.Background())
			if err == nil {
				t.Error("the connection still lives")
			}
			gone <- struct{}{}
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		gone <- struct{}{}
	})
	e := start(t, Config{}, api("a", "paths: [/a]\nstrip_prefix: true\nupstreams: [{url: "+up+"}]"))
	revoked, kept := e.tokens.issue("*"), e.tokens.issue("*")

	open := func(token string) *http.Response {
		req, _ := http.NewRequest("GET", e.url+"/a/s", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 9)
		if _, err := io.ReadFull(resp.Body, b); err != nil {
			t.Fatal(err)
		}
		return resp
	}
	ws, resp, err := websocket.Dial(t.Context(), e.url+"/a/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + revoked}}})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get("X-Gw-Request-Id") == "" {
		t.Error("no request ID")
	}
	if err := ws.Write(t.Context(), websocket.MessageText, []byte("hi")); err != nil {
		t.Fatal(err)
	}
	if _, b, err := ws.Read(t.Context()); err != nil || string(b) != "/ws hi" {
		t.Fatalf("got %q, %v", b, err)
	}
	cut, stays := open(revoked), open(kept)
	e.tokens.revoke(revoked)
	mine := NewApp("", "", "", nil, nil)
	if n := e.CutStreams(func(hash [32]byte, app *App) bool {
		_, known := e.tokens.apps[hash]
		return !known && app != mine
	}); n != 2 {
		t.Errorf("cut %d streams", n)
	}
	if _, err := io.ReadAll(cut.Body); err == nil {
		t.Error("the stream ended as if it were complete")
	}
	if _, _, err := ws.Read(t.Context()); err == nil {
		t.Error("the WebSocket lives")
	}
	<-gone
	<-gone
	select {
	case <-gone:
		t.Error("another token's stream ended")
	default:
	}
	stays.Body.Close()
	<-gone
	cut.Body.Close()
}

// TestOnlyWebSocketsSwitchProtocols keeps a caller from speaking to the upstream past the gateway's routes.
func TestOnlyWebSocketsSwitchProtocols(t *testing.T) {
	got := make(chan http.Header, 1)
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { got <- r.Header })
	e := start(t, Config{}, keyless(up, ""))
	send(t, "GET", e.url, "", "Connection", "Upgrade, HTTP2-Settings", "Upgrade", "h2c", "Http2-Settings", "AAMAAABkAARAAAAAAAIAAAAA").want(t, 200, "")
	if h := <-got; h["Upgrade"] != nil || h["Connection"] != nil || h["Http2-Settings"] != nil {
		t.Errorf("upstream got %v", h)
	}
}

// TestARevocationReachesAnswersThatDidNotStreamYet cuts between the token's check and the answer's beginning.
func TestARevocationReachesAnswersThatDidNotStreamYet(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-release
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 1\n\n")
	})
	e := start(t, Config{}, api("a", "paths: [/a]\nupstreams: [{url: "+up+"}]"))
	token := e.tokens.issue("*")
	done := make(chan reply)
	go func() { done <- send(t, "GET", e.url+"/a", "", "X-Api-Key", token) }()
	<-entered
	e.tokens.revoke(token)
	e.CutStreams(func([32]byte, *App) bool { return true })
	close(release)
	(<-done).want(t, 401, "invalid_api_key")
}

func TestShutdownCutsWhatDoesNotEnd(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	e := start(t, Config{}, keyless(up, ""))
	resp, err := http.Get(e.url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the stream ended as if it were complete")
	}
	if err := e.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestASlowBodyIsRefused(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	e := start(t, Config{}, keyless(up, "timeouts: {idle: 50ms}"))
	for _, length := range []string{"Content-Length: 10", "Content-Length: 100000", "Transfer-Encoding: chunked"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(e.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n1\r\n", length)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", length, err)
		}
		if resp.StatusCode != 408 || !resp.Close {
			t.Errorf("%s: got %d, close %v", length, resp.StatusCode, resp.Close)
		}
		conn.Close()
	}
}

// TestAnUnfinishedBodyIsNotTakenForARequest has an upstream that answers while the body is still coming.
func TestAnUnfinishedBodyIsNotTakenForARequest(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(401)
	})
	e := start(t, Config{}, keyless(up, ""))
	conn, err := net.Dial("tcp", strings.TrimPrefix(e.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 401 || !resp.Close {
		t.Errorf("got %d, close %v", resp.StatusCode, resp.Close)
	}
	fmt.Fprint(conn, "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n") // may fail: the connection is being closed
	if _, err := http.ReadResponse(r, nil); err == nil {
		t.Error("the body was answered as a request")
	}
	for _, line := range e.lines(t) {
		if line["path"] != "/" {
			t.Errorf("log: %v", line)
		}
	}
}
