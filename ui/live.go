package ui

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash/fnv"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/a-h/templ"

	"gw/ui/page"
)

const (
	coalesce  = time.Second      // at most one message per stream in that time
	recheck   = 5 * time.Second  // states also change by time alone
	keepAlive = 15 * time.Second // comment on a stream that has nothing to say
	writeTime = 10 * time.Second // for one write; a browser that reads slower is cut, and comes back
	// Streams a session and the hub may have open. Hidden tabs close theirs.
	maxPerSession = 8
	maxStreams    = 200
)

// part is an element of a page that the stream keeps true. It is sent when what it shows differs from what was sent last.
type part struct {
	id   string                              // of the element
	swap string                              // how htmx puts it in place
	view func(now time.Time) templ.Component // with the zero time, nothing in it depends on the clock
	// rows are elements inside that can be sent one by one as long as shape stays what it is. Without rows the part is
	// sent whole.
	rows  []part
	shape string
}

// print is a fingerprint of what a part shows.
type print uint64

func (p part) print() print {
	h := fnv.New64a()
	if p.rows != nil {
		io.WriteString(h, p.shape)
	} else {
		p.view(time.Time{}).Render(context.Background(), h) // a hash takes every write
	}
	return print(h.Sum64())
}

// prints are those of the elements of a page, by ID.
type prints map[string]print

func printsOf(picture []part) prints {
	out := prints{}
	for _, p := range picture {
		out[p.id] = p.print()
		for _, r := range p.rows {
			out[r.id] = r.print()
		}
	}
	return out
}

// position is a short name for what a page shows: a stream that is opened with the position of now has nothing to send.
func (ps prints) position() string {
	var sum [sha256.Size]byte
	for id, p := range ps { // the order does not matter to a sum by XOR
		one := sha256.Sum256([]byte(id + "\x00" + strconv.FormatUint(uint64(p), 16)))
		for i := range sum {
			sum[i] ^= one[i]
		}
	}
	return hex.EncodeToString(sum[:8])
}

// liveURL is where the stream of a page is that shows picture.
func liveURL(pageURL string, picture []part) string {
	return "/live?" + url.Values{"page": {pageURL}, "seen": {printsOf(picture).position()}}.Encode()
}

// edgesPicture is the live part of the fleet's page. While the same rows stand in the same order, they are sent one by one.
func edgesPicture(p page.Edges) []part {
	at := func(now time.Time) page.Edges { p.Now = now; return p }
	rows := make([]part, 0, len(p.Rows))
	var shape strings.Builder
	for _, r := range p.Rows {
		rows = append(rows, part{id: page.DOM("row-", r.ID), swap: "outerMorph", view: func(now time.Time) templ.Component {
			if now.IsZero() {
				r.ConnectionWhy, r.SyncWhy, r.HealthWhy = "", "", "" // they may tell ages, and are only titles
			}
			return page.RowOf(r, p.CanRemove, now)
		}})
		shape.WriteString(r.ID + "\x00")
	}
	shape.WriteString(strconv.Itoa(p.Total) + "\x00" + strconv.FormatBool(p.Ever))
	return []part{
		{id: "summary", swap: "outerMorph", view: func(now time.Time) templ.Component { return page.SummaryCards(p.Summary, p.Query, now) }},
		{id: "count", swap: "outerMorph", view: func(time.Time) templ.Component { return page.Counted(p) }},
		{id: "list", swap: "outerMorph", rows: rows, shape: shape.String(), view: func(now time.Time) templ.Component { return page.List(at(now)) }},
	}
}

func edgePicture(p page.Edge) []part {
	return []part{{id: "edge", swap: "outerMorph", view: func(now time.Time) templ.Component { p.Now = now; return page.EdgeBody(p) }}}
}

func progressPicture(p page.Progress) []part {
	return []part{{id: "progress", swap: "outerMorph", view: func(now time.Time) templ.Component { p.Now = now; return page.ProgressBody(p) }}}
}

// picture takes the view of the page at an address as things are now.
func (k *console) picture(ctx context.Context, v *visitor, address *url.URL, now time.Time) ([]part, error) {
	segments := strings.Split(strings.TrimPrefix(address.Path, "/"), "/")
	switch {
	case address.Path == "/edges":
		p, err := k.fleet(ctx, v, parseQuery(address.Query()), now)
		return edgesPicture(p), err
	case len(segments) == 2 && segments[0] == "edges" && segments[1] == clip(segments[1], 63):
		p, err := k.oneEdge(ctx, v, segments[1], now)
		if connect.CodeOf(err) == connect.CodeNotFound && err != nil {
			p, err = page.Edge{Row: page.Row{ID: segments[1]}, Gone: true}, nil
		}
		return edgePicture(p), err
	case len(segments) == 2 && segments[0] == "pushes":
		number, err := pushNumber(segments[1])
		if err != nil {
			return nil, err
		}
		p, err := k.progress(ctx, v, number, now)
		return progressPicture(p), err
	}
	return nil, errNoPage
}

// streams counts the streams that are open.
type streams struct {
	mu    sync.Mutex
	total int
	open  map[[sha256.Size]byte]int // hash of the bearer token → streams of that session
}

// enter counts a stream in, unless there are too many; leave counts it out.
func (s *streams) enter(bearer string) (leave func(), ok bool) {
	key := sha256.Sum256([]byte(bearer))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= maxStreams || s.open[key] >= maxPerSession {
		return nil, false
	}
	if s.open == nil {
		s.open = map[[sha256.Size]byte]int{}
	}
	s.total++
	s.open[key]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.total--
		if s.open[key]--; s.open[key] == 0 {
			delete(s.open, key)
		}
	}, true
}

// live keeps an open page true. It is level-triggered: after every wake it takes the newest view and sends what differs
// from what it sent before, so a slow browser gets fewer messages, never older ones, and nothing is queued. The page's
// position closes the gap between rendering the page and opening the stream.
func (k *console) live(w http.ResponseWriter, r *http.Request) {
	address, err := url.Parse(localPath(r.URL.Query().Get("page")))
	if err != nil {
		http.Error(w, "no such page", http.StatusNotFound)
		return
	}
	c, _ := r.Cookie(cookieName(r))
	s := &stream{k: k, w: w, control: http.NewResponseController(w), request: r, address: address, seen: r.URL.Query().Get("seen")}
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		s.seen = last
	}
	if c != nil {
		leave, ok := k.streams.enter(c.Value)
		if !ok {
			w.Header().Set("Retry-After", "10")
			http.Error(w, "too many open pages", http.StatusServiceUnavailable)
			return
		}
		defer leave()
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	if s.write([]byte("retry: 2000\n: open\n\n")) != nil {
		return
	}
	s.run()
}

// stream is one open page. All of it belongs to the goroutine of its request.
type stream struct {
	k        *console
	w        http.ResponseWriter
	control  *http.ResponseController
	request  *http.Request
	address  *url.URL
	seen     string // position the page was rendered with, until the first message
	sent     prints // nil before the first view
	revision uint64
	written  time.Time
	away     bool // the page was told that the hub has no answer
}

// errSignedOut ends a stream whose session has ended.
var errSignedOut = errors.New("signed out")

// run sends until the browser, the session or the hub goes away.
func (s *stream) run() {
	ctx := s.request.Context()
	for {
		err := s.update()
		switch {
		case errors.Is(err, errSignedOut):
			s.write([]byte("event: signed-out\ndata: 1\n\n"))
			return
		case err != nil:
			return // the browser is gone, or comes back for the reason
		}
		if !s.wait(ctx) {
			return
		}
		if time.Since(s.written) >= keepAlive && s.write([]byte(": k\n\n")) != nil {
			return
		}
	}
}

// wait returns when it is time to look again: after a change, though not sooner than coalesce after the last look; or
// after recheck, because states change by time too. It is false once ctx has ended.
func (s *stream) wait(ctx context.Context) bool {
	looked := time.NewTimer(coalesce)
	defer looked.Stop()
	waiting, cancel := context.WithTimeout(ctx, recheck)
	defer cancel()
	revision, err := s.k.Wake(waiting, s.revision)
	if err == nil {
		s.revision = revision
	} else {
		<-waiting.Done() // a hub that cannot tell is not asked in a loop
	}
	select {
	case <-looked.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// update takes the newest view and sends what differs. A hub that has no answer just now leaves the page as it is, and
// lets it say so.
func (s *stream) update() error {
	v, err := s.k.visitor(s.request)
	if err == nil {
		var picture []part
		if picture, err = s.k.picture(v.ctx, v, s.address, s.k.Now()); err == nil {
			if err := s.tell(false); err != nil {
				return err
			}
			return s.send(picture)
		}
	}
	switch connect.CodeOf(err) {
	case connect.CodeUnauthenticated:
		return errSignedOut
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded:
		return s.tell(true)
	}
	return err
}

// tell tells the page whether the hub has answers, when that changes.
func (s *stream) tell(away bool) error {
	if away == s.away {
		return nil
	}
	s.away = away
	name := map[bool]string{true: "away", false: "back"}[away]
	return s.write([]byte("event: " + name + "\ndata: 1\n\n"))
}

// send writes one message with every part that differs from what the page shows.
func (s *stream) send(picture []part) error {
	now := printsOf(picture)
	position := now.position()
	if s.sent == nil && s.seen == position {
		s.sent = now
		return nil
	}
	var b bytes.Buffer
	for _, p := range picture {
		if err := s.changed(&b, p, now); err != nil {
			return err
		}
	}
	s.sent = now
	if b.Len() == 0 {
		return nil
	}
	return s.write(event(position, b.Bytes()))
}

// changed renders a part if it differs, or those of its rows that do.
func (s *stream) changed(b *bytes.Buffer, p part, now prints) error {
	if s.sent == nil || s.sent[p.id] != now[p.id] {
		return render(b, p, s.k.Now())
	}
	for _, r := range p.rows {
		if s.sent[r.id] != now[r.id] {
			if err := render(b, r, s.k.Now()); err != nil {
				return err
			}
		}
	}
	return nil
}

// render writes a part so that htmx puts it in its place.
func render(b *bytes.Buffer, p part, now time.Time) error {
	b.WriteString(`<hx-partial hx-target="#` + p.id + `" hx-swap="` + p.swap + `">`) // IDs come from page.DOM or are ours
	if err := p.view(now).Render(context.Background(), b); err != nil {
		return err
	}
	b.WriteString("</hx-partial>")
	return nil
}

// event frames a message. It has no name: htmx swaps only those without one.
func event(id string, data []byte) []byte {
	var b bytes.Buffer
	b.WriteString("id: " + id + "\n")
	for line := range bytes.Lines(data) {
		b.WriteString("data: ")
		b.Write(bytes.TrimRight(line, "\r\n"))
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// write sends bytes now. Its deadline is set by the real clock, because the network keeps that time.
func (s *stream) write(data []byte) error {
	s.control.SetWriteDeadline(time.Now().Add(writeTime)) // not every writer has one; those that do not cannot block
	if _, err := s.w.Write(data); err != nil {
		return err
	}
	s.written = time.Now()
	return s.control.Flush()
}
