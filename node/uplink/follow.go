package uplink

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

var (
	errSilent  = errors.New("no tick in time")
	errRemoved = errors.New("removed by an admin; registering again")
	errEnded   = errors.New("the hub ended the stream")
	errMissed  = errors.New("the hub is ahead by access changes this stream didn't bring")
	errFar     = errors.New("the leader that another hub names is not reached")
)

// stream is one open Watch call. Its pump goroutine, which close waits for, hands over events one by one.
type stream struct {
	cred   *credentials
	route  route
	cancel context.CancelFunc
	events chan *gwv1.WatchResponse // closed when the stream has ended
	err    error                    // why; to be read after events was closed
	ticked bool                     // owned by the follower

	reached atomic.Bool // there is a connection to the hub
}

// open starts a Watch call at the current hub. It doesn't wait for the hub.
func (u *Uplink) open(ctx context.Context) *stream {
	var base []byte
	if loaded := u.c.Loaded(); loaded.Number > 0 {
		base = loaded.Checksum[:]
	}
	u.mu.Lock()
	request := &gwv1.WatchRequest{
		SessionId: u.session, BaseChecksum: base, ClusterId: u.access.ClusterId, Epoch: u.access.Epoch, AccessVersion: u.access.AccessVersion,
	}
	at := u.hubs.route()
	var limit time.Duration
	if u.hubs.hintedBy != "" {
		limit = u.pace.leader
	}
	u.mu.Unlock()
	s := &stream{cred: u.ident.Load(), route: at, events: make(chan *gwv1.WatchResponse)}
	ctx, s.cancel = reach(ctx, limit, &s.reached)
	go s.pump(ctx, request)
	return s
}

func (s *stream) pump(ctx context.Context, request *gwv1.WatchRequest) {
	defer close(s.events)
	call, err := s.cred.client(s.route).Watch(ctx, request)
	if err != nil {
		s.err = tooFar(ctx, err)
		return
	}
	defer call.Close()
	for call.Receive() {
		select {
		case s.events <- call.Msg():
		case <-ctx.Done():
			s.err = ctx.Err()
			return
		}
	}
	if s.err = tooFar(ctx, call.Err()); s.err == nil {
		s.err = errEnded
	}
}

// reach returns a context for a call that ends if the call has no connection after a while; 0 is no limit. reached is
// set once it has one.
func reach(ctx context.Context, limit time.Duration, reached *atomic.Bool) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := func() bool { return true }
	if limit > 0 {
		stop = time.AfterFunc(limit, func() { cancel(errFar) }).Stop
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		stop()
		reached.Store(true)
	}})
	return ctx, func() { stop(); cancel(nil) }
}

// tooFar is err, or errFar if that is why the call ended.
func tooFar(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errFar) {
		return errFar
	}
	return err
}

// close ends the stream and waits for its goroutine.
func (s *stream) close() {
	s.cancel()
	for range s.events {
	}
}

// follow holds a stream at one hub or the next until ctx ends.
func (u *Uplink) follow(ctx context.Context) error {
	var t tries
	for {
		e := u.followOne(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(e.err, errSilent) {
			u.dropConnections()
		}
		hub, wait := u.turn(e, &t)
		u.noteEnded(e.err)
		if u.noteRevoked(e.err) {
			t.refused++
			if wait = u.pace.revoked.delay(t.refused, random()); u.comeBack(ctx) {
				wait = 0
			}
		}
		u.log.Warn("not following a hub", "hub", hub, "error", e.err, "reason", reasonOf(e.err), "retry_in", wait.Round(time.Millisecond))
		if !sleep(ctx, wait, u.reopen) {
			return nil
		}
	}
}

// dropConnections has later calls made over new connections: the one that fell silent may be dead without anybody having
// been told, and would keep them waiting until it is found out.
func (u *Uplink) dropConnections() {
	if old := u.ident.Load(); u.ident.CompareAndSwap(old, old.afresh(u.pace)) {
		old.transport.CloseIdleConnections()
	}
}

// end is how following a hub ended: whether it was connected to, whether it ever ticked, and why.
type end struct {
	reached, ticked bool
	lasted          time.Duration // from the first tick to the last
	err             error
}

// tries counts what has been tried since a hub last ticked.
type tries struct {
	failed     int
	moves      int // on a hub's word to where the leader is
	leaderless int // answers that there is no leader
	refused    int // answers that the edge was revoked
	turned     int // handshakes that a hub had no room for
	// back: it has lost a stream of a large fleet's hub, and first looks whether the hub is still there.
	back bool
	// spread: it has waited for its turn among all edges of a large fleet already.
	spread bool
}

const (
	// maxMoves is how often in a row an edge goes at once where it is sent; hubs that disagree must not make it run.
	maxMoves = 4
	// maxTurned is how often in a row an edge comes again to a hub that has no room for its handshake.
	maxTurned = 8
	// maxLeaderless is how often in a row an edge soon looks again for a leader: elections take seconds. One of a large
	// fleet takes its time for that too.
	maxLeaderless = 15
)

// turn decides where to go next and how soon, and returns where it was.
func (u *Uplink) turn(e end, t *tries) (hub string, wait time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	hub = u.hubs.current()
	u.following = false
	u.lastError = fmt.Sprintf("%s: %v", hub, e.err)
	if e.ticked {
		*t = tries{}
	}
	if wait, told := comeAgain(e.err, random()); told {
		return hub, wait
	}
	// All edges of a leader that is gone come at once, and a large fleet spreads over what hubs have asked for, with each
	// try: it would never come back if those whose tries fail came ever faster. What befalls one edge alone is no reason to,
	// nor is it, to who has waited, that a hub isn't there.
	pace := u.pace.reconnect
	alone := errors.Is(e.err, errRemoved) || errors.Is(e.err, errMissed) || t.spread && notThere(e.err)
	large := u.spread > pace.quick && !alone
	if large {
		pace.quick, pace.base, pace.cap = u.spread, max(pace.base, u.spread), max(pace.cap, u.spread)
	}
	if turnedAway(e) && t.turned < maxTurned { // it is well, and there: neither another hub nor a way around it is better
		t.turned++
		t.spread = t.spread || large
		return hub, pace.delay(t.turned, random())
	}
	elsewhere := reasonOf(e.err) == notLeader
	// A connection that broke while its hub is still there is soon made again, and a hub that is gone costs nobody anything.
	// One that is silent may have more to do than it can, and gets some time; one at which no stream lasts is left.
	if large && e.ticked && !elsewhere && e.lasted >= u.pace.tickTimeout {
		t.back = true
		look := u.pace.reconnect.quick
		if errors.Is(e.err, errSilent) {
			look = max(look, u.spread/4)
		}
		return hub, time.Duration(random() * float64(look))
	}
	gone := e.ticked || t.back && !e.reached
	t.back = false
	moved := false
	switch {
	case errors.Is(e.err, errRemoved):
	case elsewhere && u.hubs.doubts(leaderOf(e.err), u.now(), u.pace.reconnect.quick): // it is asked again soon
	case elsewhere && u.hubs.lead(leaderOf(e.err)):
		moved = true
	case elsewhere && u.hubs.proxy:
		u.hubs.proxy = false // the leader is another now, and may be within reach
	case gone:
		u.hubs.leave(u.now(), random())
	case !e.reached && u.hubs.through():
		moved = true
	default:
		u.hubs.rotate()
	}
	switch {
	case moved && !e.ticked && t.moves < maxMoves:
		t.moves++
		wait := spreadTo(e.err, random())
		if t.spread { // but many may have waited for an election together
			wait = min(wait, time.Duration(random()*float64(u.pace.reconnect.quick)))
		}
		return hub, wait
	case elsewhere && t.leaderless < maxLeaderless:
		t.leaderless++
		t.spread = t.spread || large
		return hub, time.Duration(random() * float64(pace.quick))
	}
	t.failed++
	t.spread = t.spread || large
	if gone {
		return hub, time.Duration(random() * float64(pace.quick))
	}
	return hub, pace.delay(pace.round(t.failed, u.hubs.len()), random())
}

// followOne follows one hub until the stream ends or falls silent. When the certificate was renewed it opens a second
// stream, and leaves the first once the second ticks.
func (u *Uplink) followOne(ctx context.Context) (e end) {
	var first time.Time // tick
	cur := u.open(ctx)
	defer func() { e.reached = cur.reached.Load() }()
	var next *stream // the second stream, if any
	defer func() {
		cur.close()
		if next != nil {
			next.close()
		}
	}()
	silence := time.NewTimer(u.pace.tickTimeout)
	defer silence.Stop()
	for {
		var event *gwv1.WatchResponse
		var nextEvents chan *gwv1.WatchResponse
		if next != nil {
			nextEvents = next.events
		}
		select {
		case <-ctx.Done():
			e.err = ctx.Err()
			return e
		case <-silence.C:
			e.err = errSilent
			return e
		case <-u.reopen:
			if next == nil && cur.cred != u.ident.Load() {
				next = u.open(ctx)
			}
			continue
		case got, ok := <-nextEvents:
			if !ok {
				u.log.Warn("no second stream under the renewed certificate yet", "error", next.err)
				next.close()
				next = nil // the next tick tries again
				continue
			}
			old := cur
			cur, next = next, nil
			old.close()
			old.cred.transport.CloseIdleConnections()
			event = got
		case got, ok := <-cur.events:
			if !ok {
				e.err = cur.err
				return e
			}
			event = got
		}
		e.err = u.handle(cur, event)
		if event.GetTick() != nil {
			silence.Reset(u.pace.tickTimeout)
			if first.IsZero() {
				first = time.Now()
			}
			e.lasted = time.Since(first)
			if next == nil && cur.cred != u.ident.Load() {
				wake(u.reopen)
			}
		}
		e.ticked = e.ticked || cur.ticked
		if e.err != nil {
			return e
		}
	}
}

// handle takes one event of the stream that is followed.
func (u *Uplink) handle(s *stream, e *gwv1.WatchResponse) error {
	switch event := e.Event.(type) {
	case *gwv1.WatchResponse_Tick:
		return u.handleTick(s, event.Tick)
	case *gwv1.WatchResponse_Access:
		u.applyAccess(event.Access)
	case *gwv1.WatchResponse_Removed:
		return errRemoved
	}
	return nil // an event of a later version says nothing this one must act on
}

// handleTick notes where the cluster stands. A tick comes after the access changes up to its version; if they didn't come,
// a new stream replays them. One that doesn't even do that means that nothing cached can be relied on.
func (u *Uplink) handleTick(s *stream, tick *gwv1.Tick) error {
	u.mu.Lock()
	u.lastHeard = u.now()
	u.lastError, u.revoked = "", ""
	u.following = true
	foreign := u.access.ClusterId != tick.ClusterId || u.access.Epoch != tick.Epoch
	missed := tick.AccessVersion > u.access.AccessVersion
	changed := tick.Target != nil && !sameTarget(u.target, tick.Target)
	if len(tick.Release) > 0 {
		u.delivered = tick.Release
	}
	if tick.Target != nil {
		u.target = proto.CloneOf(tick.Target)
	}
	u.spread = min(max(tick.ReconnectSpread.AsDuration(), 0), maxRetryJitter)
	u.mu.Unlock()
	first := !s.ticked
	s.ticked = true
	if first {
		u.mu.Lock()
		u.streams++
		u.mu.Unlock()
	}
	if !foreign && missed && !first {
		return errMissed
	}
	if foreign || missed {
		u.resetAccess(tick)
	}
	if changed || first {
		wake(u.fetchNow)
	}
	u.raiseRetry(tick.Retry)
	if u.c.Tokens != nil {
		u.c.Tokens.reached()
	}
	if first {
		u.log.Info("following a hub", "hub", s.route.hub, "passes_on", s.route.proxy, "access_version", tick.AccessVersion, "release", tick.GetTarget().GetNumber())
		wake(u.beatNow)
		wake(u.drainNow)
	}
	return nil
}

// sameTarget compares all of two targets; nil is only like nil.
func sameTarget(a, b *gwv1.Target) bool { return proto.Equal(a, b) }

// newer reports whether target comes after the pair (epoch, number). Number 0 is no release and newer than none.
func newer(target *gwv1.Target, epoch, number uint64) bool {
	switch {
	case target.GetNumber() == 0:
		return false
	case target.Epoch != epoch:
		return target.Epoch > epoch
	default:
		return target.Number > number
	}
}

// raiseTarget notes a target that came beside the stream, which may be older than what the stream told since.
func (u *Uplink) raiseTarget(target *gwv1.Target) {
	u.mu.Lock()
	raised := newer(target, u.target.GetEpoch(), u.target.GetNumber())
	if raised {
		u.target = proto.CloneOf(target)
	}
	u.mu.Unlock()
	if raised {
		wake(u.fetchNow)
	}
}

// raiseRetry forgets what was rejected when an admin asks for another try. The value only rises, so that every reconnect
// and every heartbeat can tell it.
func (u *Uplink) raiseRetry(value uint64) {
	u.mu.Lock()
	raised := value > u.retry
	again := raised && u.rejected != nil
	if raised {
		u.retry, u.rejected = value, nil
	}
	u.mu.Unlock()
	if again {
		u.log.Info("an admin asks for another try of the release that was rejected")
	}
	if raised {
		wake(u.fetchNow)
	}
}

// sayGoodbye ends the session on purpose, if a hub is there to hear it.
func (u *Uplink) sayGoodbye() {
	u.mu.Lock()
	following := u.following
	u.following = false
	u.mu.Unlock()
	client, err := u.client()
	if err != nil || !following {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), u.pace.goodbye)
	defer cancel()
	if _, err := client.Goodbye(ctx, &gwv1.GoodbyeRequest{SessionId: u.session}); err != nil && connect.CodeOf(err) != connect.CodeUnimplemented {
		u.log.Debug("goodbye was not heard", "error", err)
	}
}
