package gateway

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

// wait is what an exchange waits for.
type wait uint8

const (
	waitNothing      wait = iota
	waitClientBody        // the caller sends the request's body
	waitUpstreamBody      // the upstream takes the request's body
	waitHeader            // the upstream answers
	waitUpstream          // the upstream sends the answer's body
	waitClient            // the caller takes the answer's body
)

var (
	errClientSlow   = errors.New("client sent nothing in time")
	errUpstreamFull = errors.New("upstream took nothing in time")
	errHeaderSlow   = errors.New("upstream did not answer in time")
	errUpstreamIdle = errors.New("upstream sent nothing in time")
	errClientFull   = errors.New("client took nothing in time")
)

// watchdog ends an exchange that waits too long for one thing. It is used by one exchange after the other, as setting a
// timer that is there already costs far less than a new one.
type watchdog struct {
	mu     sync.Mutex // guards all of it
	timer  *time.Timer
	fires  time.Time // when the timer does; zero: it is stopped
	waits  wait
	until  time.Time
	limits timeouts
	cancel context.CancelCauseFunc // nil: no exchange uses it
	w      http.ResponseWriter
}

var watchdogs = sync.Pool{New: func() any {
	d := new(watchdog)
	d.timer = time.AfterFunc(time.Hour, d.fire)
	d.timer.Stop()
	return d
}}

// newWatchdog returns a watchdog that waits for nothing yet. It belongs to the exchange until stop.
func newWatchdog(limits timeouts, cancel context.CancelCauseFunc, w http.ResponseWriter) *watchdog {
	d := watchdogs.Get().(*watchdog)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.limits, d.cancel, d.w, d.waits = limits, cancel, w, waitNothing
	return d
}

// watch starts the time for a wait.
func (d *watchdog) watch(w wait) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waits = w
	if w == waitNothing || d.cancel == nil {
		return
	}
	limit := d.limits.idle
	if w == waitHeader {
		limit = d.limits.header
	}
	d.until = time.Now().Add(limit)
	if d.fires.IsZero() || d.until.Before(d.fires) {
		d.fires = d.until
		d.timer.Reset(limit)
	}
}

// stop ends the watchdog for the exchange: nothing of it touches the response any more.
func (d *watchdog) stop() {
	d.mu.Lock()
	d.timer.Stop()
	d.fires, d.cancel, d.w, d.waits = time.Time{}, nil, nil, waitNothing
	d.mu.Unlock()
	watchdogs.Put(d)
}

// fire runs when the time may be over. The timer is not set back with every wait, and may be one exchange late, so it is
// often too early.
func (d *watchdog) fire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fires = time.Time{}
	if d.cancel == nil || d.waits == waitNothing {
		return
	}
	if left := time.Until(d.until); left > 0 {
		d.fires = d.until
		d.timer.Reset(left)
		return
	}
	past := time.Unix(1, 0)
	switch d.waits {
	case waitClientBody:
		d.cancel(errClientSlow)
		_ = http.NewResponseController(d.w).SetReadDeadline(past)
	case waitUpstreamBody:
		d.cancel(errUpstreamFull)
	case waitHeader:
		d.cancel(errHeaderSlow)
	case waitUpstream:
		d.cancel(errUpstreamIdle)
	case waitClient:
		d.cancel(errClientFull)
		_ = http.NewResponseController(d.w).SetWriteDeadline(past)
	}
}
