package fleet

import (
	"time"

	"gw/rpc/gwv1"
)

// Live is what the leader heard from one edge, as it was when asked.
type Live struct {
	Namespace string
	// SessionID is that of the process that was first heard last; ConflictingSessionID that of another one that has been
	// heard since, so that two are alive, and ConflictingAddress where that one calls from.
	SessionID, ConflictingSessionID, ConflictingAddress string
	// FirstHeard is when the process was first heard by this leader.
	FirstHeard time.Time
	// Heartbeat is the last one and HeardAt when it came; nil and zero if none came yet. It must not be changed.
	Heartbeat *gwv1.HeartbeatRequest
	HeardAt   time.Time
	// Interval is when the process was told to beat again.
	Interval    time.Duration
	Address     string
	Certificate Certificate
	// Streaming says whether its watch stream is open, and StreamSince since when it is or isn't.
	Streaming   bool
	StreamSince time.Time
	Goodbye     bool
	// Rates are the newest that its heartbeats gave; nil if they gave none.
	Rates *Rates
}

// lastSign is when the process was last heard.
func (l *Live) lastSign() time.Time {
	if l.HeardAt.IsZero() {
		return l.FirstHeard
	}
	return l.HeardAt
}

// GetNamespace returns the namespace; "" of nil.
func (l *Live) GetNamespace() string {
	if l == nil {
		return ""
	}
	return l.Namespace
}

// GetRates returns the rates; nil of nil.
func (l *Live) GetRates() *Rates {
	if l == nil {
		return nil
	}
	return l.Rates
}

// Live returns what was heard from an edge; nil if nothing was.
func (f *Fleet) Live(edgeID string) *Live {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.edges[edgeID]
	if e == nil {
		return nil
	}
	l := e.live(f.now())
	return &l
}

// All returns what was heard from every edge, by edge ID.
func (f *Fleet) All() map[string]*Live {
	// Memory is taken before the lock is: whoever takes this much may have to help the collector first, and every tick of
	// every edge would wait.
	n := f.Size()
	all, room := make(map[string]*Live, n), make([]Live, 0, n+n/8)
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	for id, e := range f.edges {
		room = append(room, e.live(now))
		all[id] = &room[len(room)-1]
	}
	return all
}

// Running is what an edge last said to have loaded.
type Running struct {
	Epoch, Release uint64
	// Since is when it was last connected.
	Since time.Time
}

// Size is how many edges were heard of since this hub leads.
func (f *Fleet) Size() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.edges)
}

// Running returns what an edge last said to have loaded; ok is false if it has not said yet.
func (f *Fleet) Running(edgeID string) (r Running, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.edges[edgeID]
	if e == nil || e.reported == (registered{}) {
		return r, false
	}
	s := e.shown()
	r = Running{Epoch: e.reported.epoch, Release: e.reported.release, Since: s.firstHeard}
	if s.streams > 0 && s.streamSince.After(r.Since) {
		r.Since = s.streamSince
	}
	return r, true
}

// Vitals returns what the process that an edge is shown by reported last; nil if it reported none.
func (f *Fleet) Vitals(edgeID string) *gwv1.Vitals {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.edges[edgeID]
	if e == nil {
		return nil
	}
	return e.shown().doing.vitals()
}

// shown is the process first heard last, since a restart is far more common than a second process.
func (e *edge) shown() *session { return e.sessions[len(e.sessions)-1] }

func (e *edge) live(now time.Time) Live {
	s := e.shown()
	l := Live{
		Namespace: e.namespace, SessionID: s.id, FirstHeard: s.firstHeard, Heartbeat: s.heartbeat, HeardAt: s.heardAt,
		Interval: s.interval, Address: s.address, Certificate: s.certificate,
		Streaming: s.streams > 0, StreamSince: s.streamSince, Goodbye: s.goodbye, Rates: s.doing.rates,
	}
	for _, other := range e.sessions {
		if other != s && other.conflicts(s, now) {
			l.ConflictingSessionID, l.ConflictingAddress = other.id, other.address
		}
	}
	return l
}

// conflicts reports whether s, heard before the process first, lives beside it: a process that was killed and started
// again is never heard after its successor.
func (s *session) conflicts(first *session, now time.Time) bool {
	beaten := !s.heardAt.IsZero() && !s.heardAt.Before(first.firstHeard)
	return !s.goodbye && beaten && now.Sub(s.heardAt) < lostAfter(s.interval)
}
