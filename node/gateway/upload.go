package gateway

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errTooLarge   = errors.New("request body is too large")
	errClientBody = errors.New("request body can't be read")
	errOver       = errors.New("the request is over")
)

// upload forwards a body that is not read beforehand. The transport reads it in a goroutine of its own, maybe after the
// answer is complete; the server allows that only until the handler returns, so finish ends it.
type upload struct {
	x     *exchange // nil: there is no upload
	state atomic.Int32
	mu    sync.Mutex // held while reading; guards left
	left  int64      // bytes that may still come
	// failure is why the body could not be read. It is set before the state becomes uploadFailed.
	failure error
}

// States of an upload. It leaves uploadRuns once.
const (
	uploadRuns int32 = iota
	uploadComplete
	uploadTooLarge
	uploadFailed
	uploadOver
)

// start prepares the upload of the request's body.
func (u *upload) start(x *exchange) {
	u.x, u.left = x, x.g.maxBody
	if x.r.ProtoMajor == 1 {
		// Without it, net/http reads the rest of the body itself when the answer begins, and cuts both off.
		_ = http.NewResponseController(x.w).EnableFullDuplex()
	}
}

// Read reads from the caller, keeping the time it takes, and the time until it is called again.
func (u *upload) Read(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.err(); err != nil {
		return 0, err
	}
	u.x.watchRequest(waitClientBody)
	n, err := u.x.r.Body.Read(b)
	u.left -= int64(n)
	if u.left >= 0 && err == nil {
		u.x.watchRequest(waitUpstreamBody)
		return n, nil
	}
	u.x.watchRequest(waitNothing)
	switch {
	case u.left < 0:
		n = 0
		u.state.CompareAndSwap(uploadRuns, uploadTooLarge)
	case err == io.EOF:
		u.state.CompareAndSwap(uploadRuns, uploadComplete)
	default:
		u.failure = err
		u.state.CompareAndSwap(uploadRuns, uploadFailed)
	}
	return n, u.err()
}

// err returns what a read returns now, without waiting for one that is under way; nil while more may come.
func (u *upload) err() error {
	switch u.state.Load() {
	case uploadRuns:
		return nil
	case uploadComplete:
		return io.EOF
	case uploadTooLarge:
		return errTooLarge
	case uploadFailed:
		return errClientBody
	}
	return errOver
}

// incomplete reports whether there is an upload, and not all of it was read.
func (u *upload) incomplete() bool { return u.x != nil && u.state.Load() != uploadComplete }

// Close does nothing: the server closes the body.
func (u *upload) Close() error { return nil }

// finish ends the upload before the handler returns: a read that waits for the caller is woken, and net/http is kept from
// waiting for the rest, as the connection ends anyway.
func (u *upload) finish() {
	if u.x == nil {
		return
	}
	u.state.CompareAndSwap(uploadRuns, uploadOver)
	if u.incomplete() {
		_ = http.NewResponseController(u.x.w).SetReadDeadline(time.Unix(1, 0))
	}
	u.mu.Lock()
	//lint:ignore SA2001 a read that is under way holds the lock: it ends now, and is waited for
	u.mu.Unlock()
}
