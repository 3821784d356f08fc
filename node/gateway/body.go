package gateway

import (
	"errors"
	"io"
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
)

// hasBody reports whether the request may have a body.
func (x *exchange) hasBody() bool {
	return x.r.Body != nil && x.r.Body != http.NoBody && x.r.ContentLength != 0
}

// readBody reads the whole body into x.body. idle bounds the time between two of its pieces. The memory is not used
// again: the transport may still read it when the exchange is over.
func (x *exchange) readBody(idle time.Duration) *refusal {
	length := x.r.ContentLength
	if length > x.g.maxBody {
		return tooLarge
	}
	size := int(min(length, firstRead))
	if size < 0 {
		size = 4 << 10
	}
	var rc *http.ResponseController
	body := make([]byte, size)
	n := 0
	for {
		if n == len(body) {
			body = append(body, make([]byte, n)...)
		}
		end := len(body)
		if length > 0 {
			end = int(min(int64(end), length))
		}
		m, err := x.r.Body.Read(body[n:end])
		n += m
		if int64(n) > x.g.maxBody {
			return tooLarge
		}
		if err == io.EOF || int64(n) == length {
			if rc != nil {
				_ = rc.SetReadDeadline(time.Time{}) // or the watch for the caller's leaving would end with it
			}
			x.body, x.bodyRead = body[:n], true
			return nil
		}
		if err != nil {
			return x.readFailed(err)
		}
		// Most bodies arrive with their header; only for those that don't is the time kept.
		if rc == nil {
			rc = http.NewResponseController(x.w)
		}
		_ = rc.SetReadDeadline(time.Now().Add(idle))
	}
}

// readFailed says what to make of an error while the caller's body was read.
func (x *exchange) readFailed(err error) *refusal {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return clientSlow
	}
	x.cause = err
	return clientGone
}
