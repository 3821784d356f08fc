package gateway

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"gw/node/gateway/llm"
)

const (
	copyBuffer   = 32 << 10
	streamBuffer = 8 << 10
	// headerDelay is how long the header of an answer of unknown length waits for the answer's first piece.
	headerDelay = 2 * time.Millisecond
)

var errClientWrite = errors.New("write answer")

// flow is how an answer's body comes.
type flow struct {
	events  bool // it is an event stream
	streams bool // each piece is passed on at once
	scans   bool // it may report usage
	chunks  bool // plugins are asked about each piece
}

func flowOf(x *exchange, resp *http.Response) flow {
	kind := mediaType(resp.Header)
	f := flow{events: kind == "text/event-stream"}
	f.streams = (f.events || resp.ContentLength < 0) && x.r.Method != http.MethodHead
	if x.target.kind == kindLLM && resp.Header["Content-Encoding"] == nil {
		f.scans = f.events || kind == "application/json"
		if f.events {
			x.scan = llm.NewEventScanner()
		}
	}
	return f
}

// mediaType returns a header's content type without parameters, in lower case.
func mediaType(h http.Header) string {
	values := h["Content-Type"]
	if len(values) == 0 {
		return ""
	}
	switch values[0] {
	case "application/json", "text/event-stream":
		return values[0]
	}
	kind, _, err := mime.ParseMediaType(values[0])
	if err != nil {
		kind, _, _ = strings.Cut(values[0], ";")
		return strings.ToLower(strings.TrimSpace(kind))
	}
	return kind
}

type (
	wideBuffer   [copyBuffer]byte
	narrowBuffer [streamBuffer]byte
)

var (
	wideBuffers   = sync.Pool{New: func() any { return new(wideBuffer) }}
	narrowBuffers = sync.Pool{New: func() any { return new(narrowBuffer) }}
)

// copyBody passes the answer's body on. The error wraps errClientWrite if it is the caller who does not take it.
func (x *exchange) copyBody(f flow, resp *http.Response) error {
	if f.streams || resp.ContentLength <= streamBuffer {
		buf := narrowBuffers.Get().(*narrowBuffer)
		defer narrowBuffers.Put(buf)
		return x.copyThrough(buf[:], f, resp)
	}
	buf := wideBuffers.Get().(*wideBuffer)
	defer wideBuffers.Put(buf)
	return x.copyThrough(buf[:], f, resp)
}

func (x *exchange) copyThrough(buf []byte, f flow, resp *http.Response) error {
	var head headFlush
	if f.streams {
		head.start(x, f)
		defer head.end()
	}
	for {
		x.dog.watch(waitUpstream)
		n, err := resp.Body.Read(buf)
		if f.streams {
			head.end()
		}
		if n > 0 {
			if err := x.pass(buf[:n], f); errors.Is(err, errPlugin) {
				return err
			} else if err != nil {
				return fmt.Errorf("%w: %w", errClientWrite, err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// pass writes one piece of the answer.
func (x *exchange) pass(piece []byte, f flow) error {
	if f.scans {
		x.scan.Write(piece) // never fails
	}
	if f.chunks {
		x.dog.watch(waitNothing) // plugins have their own deadlines
		var err error
		if piece, err = x.onChunk(piece); err != nil || len(piece) == 0 {
			return err
		}
	}
	x.dog.watch(waitClient)
	n, err := x.w.Write(piece)
	x.bytes += int64(n)
	if f.events {
		x.border.Write(piece[:n]) // never fails
	}
	if err != nil || !f.streams {
		return err
	}
	return http.NewResponseController(x.w).Flush()
}

// headFlush sends the header of a streamed answer before its first piece, unless that comes right away.
type headFlush struct {
	timer *time.Timer
	mu    sync.Mutex
	over  bool // guarded by mu
}

// start sends the header of an event stream at once, and any other after headerDelay. Errors show at the next write.
func (h *headFlush) start(x *exchange, f flow) {
	rc := http.NewResponseController(x.w)
	if f.events {
		h.over = true
		_ = rc.Flush()
		return
	}
	h.timer = time.AfterFunc(headerDelay, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.over {
			h.over = true
			_ = rc.Flush()
		}
	})
}

// end hands the writing of the answer back to the exchange.
func (h *headFlush) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		h.over = true
		h.timer.Stop()
	}
}
