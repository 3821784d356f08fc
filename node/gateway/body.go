package gateway

import (
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	// smallBody is the largest body that is read before it is forwarded. Then net/http watches for the caller leaving from
	// the start, a connection the upstream closed meanwhile costs a second try instead of the request, and header and body
	// leave in one write.
	smallBody = 64 << 10
	// firstRead is what is set aside for a body before any of it has arrived, whatever its length is said to be.
	firstRead = 1 << 20
	// unreadBody is how long the rest of a body may take to arrive that is not wanted; the connection ends if it doesn't.
	unreadBody = 250 * time.Millisecond
)

// hasBody reports whether the request may have a body.
func (x *exchange) hasBody() bool {
	return x.r.Body != nil && x.r.Body != http.NoBody && x.r.ContentLength != 0
}

// readBody reads the whole body into x.body. idle bounds the time between two of its pieces. The memory is not used
// again: the transport may still read it when the exchange is over.
func (x *exchange) readBody(idle time.Duration) *refusal {
	if r := x.beginBody(x.g.maxBody, idle); r != nil {
		return r
	}
	if !x.bodyRead {
		return tooLarge
	}
	return nil
}

// beginBody reads the body into x.body if it has at most limit bytes. Otherwise bodyRead stays false, and x.body, unless
// the length said so, is how it begins: the rest is still to be read from the request.
func (x *exchange) beginBody(limit int64, idle time.Duration) *refusal {
	length := x.r.ContentLength
	if x.bodyRead || length > limit || int64(len(x.body)) > limit {
		return nil
	}
	body, n := x.body, len(x.body)
	if n == 0 {
		size := int(min(length, firstRead))
		if size < 0 {
			size = 4 << 10
		}
		if !x.takeMemory(size) {
			return overloaded
		}
		body = make([]byte, size)
	}
	rc := http.NewResponseController(x.w)
	for {
		if n == len(body) {
			if !x.takeMemory(n) {
				return overloaded
			}
			body = append(body, make([]byte, n)...)
		}
		end := len(body)
		if length > 0 {
			end = int(min(int64(end), length))
		}
		_ = rc.SetReadDeadline(time.Now().Add(idle))
		m, err := x.r.Body.Read(body[n:end])
		n += m
		read := err == io.EOF || int64(n) == length
		if read || int64(n) > limit {
			_ = rc.SetReadDeadline(time.Time{}) // or the watch for the caller's leaving would end with it
			x.body, x.bodyRead = body[:n], read && int64(n) <= limit
			return nil
		}
		if err != nil {
			return x.readFailed(err)
		}
	}
}

// takeMemory sets n bytes aside for the body until the exchange ends. It does not wait: who waited for a share while
// holding one could wait for itself.
func (x *exchange) takeMemory(n int) bool {
	if !x.g.memory.TryAcquire(int64(n)) {
		return false
	}
	x.bodyMemory += int64(n)
	return true
}

// readFailed says what to make of an error while the caller's body was read.
func (x *exchange) readFailed(err error) *refusal {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return clientSlow
	}
	x.cause = err
	var conn *net.OpError
	if x.r.ProtoMajor != 1 || x.r.Context().Err() != nil || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &conn) {
		return clientGone
	}
	return badFraming
}

// leaveBody bounds the time net/http waits for a body that nobody has read, to use the connection again.
func (x *exchange) leaveBody() {
	if x.r.ProtoMajor == 1 && x.hasBody() && !x.bodyRead {
		_ = http.NewResponseController(x.w).SetReadDeadline(time.Now().Add(unreadBody))
	}
}
