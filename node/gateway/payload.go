package gateway

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// smallBody is the largest body that is read before it is forwarded. Then net/http watches for the caller leaving from
	// the start, and a connection the upstream closed meanwhile costs a second try instead of the request.
	smallBody = 64 << 10
	// firstRead is what is set aside for a body before any of it has arrived, whatever its length is said to be.
	firstRead = 1 << 20
)

var errBodyClosed = errors.New("body was closed")

// payload is a request's body in memory. It is shared by the exchange and the readers the transport opens, which it may
// go on reading after the exchange is over; the last one to let go gives the memory back.
type payload struct {
	data   []byte
	memory []byte // what data lies in
	refs   atomic.Int32
}

var payloads = sync.Pool{New: func() any { return new(payload) }}

func newPayload(size int) *payload {
	p := payloads.Get().(*payload)
	if cap(p.memory) < size {
		p.memory = make([]byte, size)
	}
	p.memory = p.memory[:cap(p.memory)]
	p.refs.Store(1)
	return p
}

func (p *payload) release() {
	if p.refs.Add(-1) > 0 {
		return
	}
	p.data = nil
	if cap(p.memory) <= smallBody {
		payloads.Put(p)
	}
}

// open makes r a reader of the whole body.
func (p *payload) open(r *payloadReader) *payloadReader {
	p.refs.Add(1)
	r.payload, r.rest = p, p.data
	return r
}

// payloadReader reads a payload. The transport may close it in one goroutine while another reads.
type payloadReader struct {
	mu      sync.Mutex
	payload *payload // nil: closed
	rest    []byte
}

func (r *payloadReader) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.payload == nil {
		return 0, errBodyClosed
	}
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *payloadReader) Close() error {
	r.mu.Lock()
	p := r.payload
	r.payload, r.rest = nil, nil
	r.mu.Unlock()
	if p != nil {
		p.release()
	}
	return nil
}

// hasBody reports whether the request may have a body.
func (x *exchange) hasBody() bool {
	return x.r.Body != nil && x.r.Body != http.NoBody && x.r.ContentLength != 0
}

// readBody reads the whole body into x.body. idle bounds the time between two of its pieces.
func (x *exchange) readBody(idle time.Duration) *refusal {
	if x.r.ContentLength > x.g.maxBody {
		return tooLarge
	}
	size := int(min(x.r.ContentLength, firstRead))
	if size < 0 {
		size = 4 << 10
	}
	p := newPayload(size)
	x.body = p
	n, slow := 0, false
	rc := http.NewResponseController(x.w)
	for {
		if n == len(p.memory) {
			p.memory = append(p.memory, make([]byte, n)...)
		}
		end := len(p.memory)
		if x.r.ContentLength > 0 {
			end = min(end, int(x.r.ContentLength))
		}
		m, err := x.r.Body.Read(p.memory[n:end])
		n += m
		if int64(n) > x.g.maxBody {
			return tooLarge
		}
		if err == io.EOF || n == int(x.r.ContentLength) {
			p.data = p.memory[:n]
			if slow {
				_ = rc.SetReadDeadline(time.Time{}) // or the watch for the caller's leaving would end with it
			}
			return nil
		}
		if err != nil {
			return x.readFailed(err, slow)
		}
		// Most bodies arrive with their header; only for those that don't is the time kept.
		slow = true
		_ = rc.SetReadDeadline(time.Now().Add(idle))
	}
}

// readFailed says what to make of an error while the caller's body was read.
func (x *exchange) readFailed(err error, slow bool) *refusal {
	var timeout interface{ Timeout() bool }
	if slow && errors.As(err, &timeout) && timeout.Timeout() {
		return clientSlow
	}
	x.cause = err
	return clientGone
}
