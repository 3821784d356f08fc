package ui

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"gw/rpc/gwv1"
)

// contextThatEnds is for handlers that serve until their request ends.
func contextThatEnds(t testing.TB) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx, cancel
}

// browser is the far end of a stream. While it is stalled, writes to it block.
type browser struct {
	mu      sync.Mutex
	header  http.Header
	status  int
	got     []string
	stalled chan struct{}
}

func (b *browser) Header() http.Header {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.header == nil {
		b.header = http.Header{}
	}
	return b.header
}

func (b *browser) WriteHeader(status int) { b.status = status }
func (b *browser) Flush()                 {}
func (b *browser) Write(data []byte) (int, error) {
	b.mu.Lock()
	stalled := b.stalled
	b.mu.Unlock()
	if stalled != nil {
		<-stalled
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, string(data))
	return len(data), nil
}

// messages returns the unnamed messages so far, and forgets them.
func (b *browser) messages() (out []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.got {
		if strings.HasPrefix(s, "id: ") {
			out = append(out, s)
		}
	}
	b.got = nil
	return out
}

// watch opens the stream of a page until the test ends. seen overrides the position of the page unless it is "".
func watch(t *testing.T, h *hub, handler http.Handler, cookie *http.Cookie, target, seen string) *browser {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.AddCookie(cookie)
	if seen != "" {
		r.Header.Set("Last-Event-ID", seen)
	}
	ctx, cancel := context.WithCancel(t.Context())
	b, done := &browser{}, make(chan struct{})
	go func() {
		defer close(done)
		handler.ServeHTTP(b, r.WithContext(ctx))
	}()
	t.Cleanup(func() { cancel(); <-done })
	return b
}

// streamOf returns where the stream of a page is that was just rendered.
func streamOf(t *testing.T, handler http.Handler, cookie *http.Cookie, target string) string {
	t.Helper()
	w := do(handler, cookie, target)
	if w.Code != http.StatusOK {
		t.Fatalf("GET %s: status %d", target, w.Code)
	}
	return attr(parse(t, w.Body.String()).one("div", "id=live"), "hx-sse:connect")
}

// targets returns the elements a message replaces.
func targets(message string) (out []string) {
	for _, s := range strings.Split(message, `hx-target="#`)[1:] {
		id, _, _ := strings.Cut(s, `"`)
		out = append(out, id)
	}
	return out
}

func TestStreamSendsTheRowsThatChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub().fleetOf(20)
		handler, cookie := h.handler(t), h.session(t, "viewer")
		b := watch(t, h, handler, cookie, streamOf(t, handler, cookie, "/edges"), "")
		time.Sleep(10 * time.Second)
		if got := b.messages(); len(got) != 0 {
			t.Fatalf("nothing changed, and %d messages came: %.200s", len(got), got[0])
		}
		h.mu.Lock()
		h.edges[0].ConnectionReason = "its last heartbeat came 12s ago" // only the clock moved
		h.mu.Unlock()
		time.Sleep(10 * time.Second)
		if got := b.messages(); len(got) != 0 {
			t.Fatalf("only the clock moved, and %d messages came: %.200s", len(got), got[0])
		}
		h.change(func() {
			h.edges[4].Version = "1.2.4"
			h.edges[9].Version = "1.2.5"
		})
		time.Sleep(2 * time.Second)
		got := b.messages()
		if len(got) != 1 || strings.Join(targets(got[0]), " ") != "row-edge-fra1-009 row-edge-nyc3-004" {
			t.Fatalf("messages %d: %.300s", len(got), got)
		}
		if !strings.Contains(got[0], "1.2.4") || strings.Contains(got[0], "\n<") {
			t.Errorf("message is not framed: %s", got[0])
		}
	})
}

func TestStreamClosesTheGapToThePage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub().fleetOf(3)
		handler, cookie := h.handler(t), h.session(t, "viewer")
		for _, target := range []string{"/edges", "/edges/edge-ams3-000"} {
			live := streamOf(t, handler, cookie, target)
			h.change(func() { h.edges[0].Version += "-next" }) // between the page and its stream
			b := watch(t, h, handler, cookie, live, "")
			time.Sleep(time.Second)
			got := b.messages()
			if len(got) != 1 || !strings.Contains(got[0], h.edges[0].Version) {
				t.Fatalf("%s: messages %.300s", target, got)
			}
			// A stream that broke resumes from its last message, whatever the page was rendered with.
			id, _, _ := strings.Cut(strings.TrimPrefix(got[0], "id: "), "\n")
			again := watch(t, h, handler, cookie, live, id)
			time.Sleep(time.Second)
			if got := again.messages(); len(got) != 0 {
				t.Errorf("%s: resumed without a change, and got %.200s", target, got)
			}
		}
	})
}

func TestStreamSendsTheListWhenItsRowsAreOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		handler, cookie := h.handler(t), h.session(t, "viewer")
		b := watch(t, h, handler, cookie, streamOf(t, handler, cookie, "/edges"), "")
		time.Sleep(time.Second)
		h.change(func() { h.fleetOf(2) })
		time.Sleep(2 * time.Second)
		got := b.messages()
		if len(got) != 1 || strings.Join(targets(got[0]), " ") != "summary count list" {
			t.Fatalf("messages %.300s", got)
		}
		// What is sent has to be HTML that a template can hold: rows in a table, and the table in its section.
		_, data, _ := strings.Cut(got[0], "\n")
		nodes, err := html.ParseFragment(strings.NewReader(strings.ReplaceAll(data, "data: ", "")), &html.Node{Type: html.ElementNode, Data: "body", DataAtom: atom.Body})
		if err != nil || len(nodes) == 0 {
			t.Errorf("parse: %v", err)
		}
		h.change(func() { h.edges = h.edges[:1] })
		time.Sleep(2 * time.Second)
		if got := b.messages(); len(got) != 1 || strings.Contains(got[0], "edge-blr1-001") {
			t.Fatalf("after a removal: %.300s", got)
		}
	})
}

func TestStreamCoalescesAndASlowBrowserGetsTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub().fleetOf(3)
		handler, cookie := h.handler(t), h.session(t, "viewer")
		b := watch(t, h, handler, cookie, streamOf(t, handler, cookie, "/edges"), "")
		time.Sleep(2 * time.Second)
		for i := range 100 { // ten a second for ten seconds
			h.change(func() { h.edges[0].Version = "fast-" + strings.Repeat("i", i) })
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(b.messages()); n < 8 || n > 11 {
			t.Errorf("%d messages in 10 s, want about one a second", n)
		}
		time.Sleep(2 * time.Second)
		b.messages()

		unstall := make(chan struct{})
		b.mu.Lock()
		b.stalled = unstall
		b.mu.Unlock()
		for _, version := range []string{"one", "two", "three", "four", "five"} {
			h.change(func() { h.edges[0].Version = version })
			time.Sleep(3 * time.Second)
		}
		b.mu.Lock()
		b.stalled = nil
		b.mu.Unlock()
		close(unstall)
		time.Sleep(3 * time.Second)
		got := b.messages()
		if len(got) != 2 || !strings.Contains(got[0], ">one<") || !strings.Contains(got[1], ">five<") {
			t.Errorf("a browser that was stalled for five changes got %d messages: %.500s", len(got), got)
		}
	})
}

func TestStreamNoticesWhatTimeAloneChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub().fleetOf(1)
		handler, cookie := h.handler(t), h.session(t, "viewer")
		b := watch(t, h, handler, cookie, streamOf(t, handler, cookie, "/edges"), "")
		time.Sleep(2 * time.Second)
		h.mu.Lock()
		h.edges[0].Connection = gwv1.Connection_CONNECTION_STALE // and nobody is woken
		h.mu.Unlock()
		time.Sleep(7 * time.Second)
		if got := b.messages(); len(got) != 1 || strings.Join(targets(got[0]), " ") != "summary row-edge-ams3-000" {
			t.Errorf("messages %.300s", got)
		}
	})
}

func TestStreamSaysWhenTheSessionHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub().fleetOf(1)
		handler, cookie := h.handler(t), h.session(t, "viewer")
		live := streamOf(t, handler, cookie, "/edges")
		b := watch(t, h, handler, cookie, live, "")
		time.Sleep(2 * time.Second)
		do(handler, cookie, "/logout", "")
		time.Sleep(2 * time.Second)
		b.mu.Lock()
		defer b.mu.Unlock()
		if last := b.got[len(b.got)-1]; last != "event: signed-out\ndata: 1\n\n" {
			t.Errorf("the last words were %q", last)
		}
		if w := do(handler, nil, live); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "event: signed-out") {
			t.Errorf("a stream without a session: status %d, %s", w.Code, w.Body)
		}
	})
}

func TestStreamSaysWhenTheClusterHasNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub().fleetOf(1)
		handler, cookie := h.handler(t), h.session(t, "viewer")
		b := watch(t, h, handler, cookie, streamOf(t, handler, cookie, "/edges"), "")
		time.Sleep(2 * time.Second)
		h.change(func() { h.fault = connect.NewError(connect.CodeUnavailable, errors.New("no leader")) })
		time.Sleep(time.Minute)
		h.change(func() { h.fault, h.edges[0].Version = nil, "9.9.9" })
		time.Sleep(2 * time.Second)
		b.mu.Lock()
		defer b.mu.Unlock()
		all := strings.Join(b.got, "")
		if strings.Count(all, "event: away") != 1 || strings.Count(all, "event: back") != 1 || !strings.Contains(b.got[len(b.got)-1], "9.9.9") {
			t.Errorf("the stream said %.400q", all)
		}
	})
}

func TestStreamsAreKeptAliveAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub().fleetOf(1)
		handler, cookie := h.handler(t), h.session(t, "viewer")
		live := streamOf(t, handler, cookie, "/edges")
		b := watch(t, h, handler, cookie, live, "")
		for range maxPerSession - 1 {
			watch(t, h, handler, cookie, live, "")
		}
		time.Sleep(time.Minute)
		b.mu.Lock()
		if n := len(b.got); n < 4 || n > 5 {
			t.Errorf("%d writes in a quiet minute: %.300q", n, b.got)
		}
		b.mu.Unlock()
		if w := do(handler, cookie, live); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("one stream too many: status %d", w.Code)
		}
	})
}

func TestRemovedEdgeSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub().fleetOf(2)
		handler, cookie := h.handler(t), h.session(t, "viewer")
		b := watch(t, h, handler, cookie, streamOf(t, handler, cookie, "/edges/edge-ams3-000"), "")
		time.Sleep(2 * time.Second)
		h.change(func() { h.edges = h.edges[1:] })
		time.Sleep(2 * time.Second)
		if got := b.messages(); len(got) != 1 || !strings.Contains(got[0], "This edge was removed") {
			t.Errorf("messages %.300s", got)
		}
	})
}

func TestPositionsTellPagesApart(t *testing.T) {
	base := prints{"a": 1, "b": 2}
	for _, other := range []prints{{"a": 2, "b": 1}, {"a": 1}, {"a": 1, "b": 2, "c": 3}, {}} {
		if base.position() == other.position() {
			t.Errorf("%v and %v have one position", base, other)
		}
	}
	if again := (prints{"b": 2, "a": 1}); base.position() != again.position() {
		t.Error("one page has two positions")
	}
	if _, err := url.Parse(liveURL("/edges?q=a&b", nil)); err != nil {
		t.Error(err)
	}
}
