// Package fleet owns the leader's memory of which edges are there now; nothing of it is replicated.
package fleet

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

// DefaultInterval is the time between two heartbeats of an edge unless configured otherwise.
const DefaultInterval = 30 * time.Second

const (
	// beatsPerSecond is how many heartbeats the leader wants at most: more edges than that many times the interval are
	// told to beat less often.
	beatsPerSecond = 500
	// maxSessions bounds what one edge ID can make the leader remember; two show a conflict.
	maxSessions = 4
	// maxStreams is two for each of them: while a certificate is renewed, or one that broke has not been found to be.
	maxStreams = 2 * maxSessions
)

// Config is what a Fleet needs.
type Config struct {
	// Interval is how often a small fleet's edges beat; 0 means DefaultInterval.
	Interval time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Fleet remembers what the leader heard from edges. Its methods are safe for concurrent use, and none blocks but Wait.
type Fleet struct {
	interval time.Duration
	now      func() time.Time
	load     load

	mu          sync.Mutex // guards what follows
	leaderSince time.Time
	edges       map[string]*edge    // edge ID → what was heard
	dirty       map[string]struct{} // IDs of edges whose registry entry may have to change
	revision    uint64
	changed     chan struct{} // closed and replaced when revision rises
	looked      time.Time     // when Elapse last looked
}

// edge is one edge ID and the processes that carry it.
type edge struct {
	namespace string
	sessions  []*session    // processes, in the order in which they were first heard; 1 to maxSessions
	gone      chan struct{} // closed by Forget
	reported  registered    // what the last heartbeat gave for the registry
	heard     []Heard       // the newest maxHeard, oldest first
	doubled   bool          // a second live process was told of in heard
	streams   int           // open, those of processes that are forgotten too
}

// session is one process as it was heard.
type session struct {
	id          string
	firstHeard  time.Time
	heardAt     time.Time              // of the last heartbeat; zero if none came yet
	heartbeat   *gwv1.HeartbeatRequest // without vitals
	doing       doing
	interval    time.Duration // what it was told
	address     string
	certificate Certificate
	streams     int
	streamSince time.Time // when the stream was last opened or broke; firstHeard if there was none yet
	goodbye     bool
}

// registered is the part of a heartbeat that the replicated registry keeps.
type registered struct {
	version, build, checksum, serial string
	epoch, release, lineage          uint64
	notAfter                         int64
	schema                           uint32
	failure                          failure
}

// failure is what the registry keeps of why an edge can't load a release; zero if it can.
type failure struct {
	epoch, release                   uint64
	code, kind, name, field, message string
}

// maxFailureText is how many bytes the registry keeps of a failure's longer texts, maxFailureName of its names.
const (
	maxFailureText = 256
	maxFailureName = 128
)

func failurePart(e *gwv1.ApplyError) failure {
	if e == nil {
		return failure{}
	}
	return failure{epoch: e.Epoch, release: e.Release, code: clip(e.Code, maxFailureName), kind: clip(e.Kind, maxFailureName),
		name: clip(e.Name, maxFailureName), field: clip(e.Field, maxFailureText), message: clip(e.Message, maxFailureText)}
}

// clip cuts text to at most n bytes of whole characters.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}

// Certificate is what the registry keeps of a client certificate.
type Certificate struct {
	// Serial in hex.
	Serial   string
	NotAfter time.Time
	// Lineage is the stamp of the enrolment that it goes back to.
	Lineage uint64
}

// New returns an empty Fleet whose grace period starts now.
func New(c Config) *Fleet {
	if c.Interval <= 0 {
		c.Interval = DefaultInterval
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Fleet{
		interval: c.Interval, now: c.Now, leaderSince: c.Now(), looked: c.Now(),
		edges: make(map[string]*edge), dirty: make(map[string]struct{}), changed: make(chan struct{}),
	}
}

// SetLeaderSince says when this hub became the leader, which begins the grace period in which nobody unheard is shown
// as lost. A heartbeat that was being taken in while this hub last resigned is forgotten.
func (f *Fleet) SetLeaderSince(t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leaderSince = t
	maps.DeleteFunc(f.edges, func(_ string, e *edge) bool {
		return e.streams == 0 && t.Sub(e.shown().lastSign()) >= streamGrace
	})
	f.bumpLocked()
}

// Resign forgets every edge, because another hub hears them from now on: what was heard is old by the time this hub may
// lead again. Streams are not ended by it.
func (f *Fleet) Resign() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.edges)
	clear(f.dirty)
	f.bumpLocked()
}

// LeaderSince returns when this hub became the leader.
func (f *Fleet) LeaderSince() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leaderSince
}

// Beat takes in a heartbeat and returns when the next one is due. It keeps r, takes the vitals out of it, and r must not be
// used for anything else afterwards.
// Whoever beats is adopted: no registration comes first. A heartbeat that was overtaken by a later one of its session
// changes nothing.
func (f *Fleet) Beat(who identity.Edge, address string, r *gwv1.HeartbeatRequest, c Certificate) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	e := f.edgeLocked(who)
	s := e.session(r.SessionId, now, f.interval)
	if s.heartbeat != nil && r.Sequence < s.heartbeat.Sequence {
		return s.interval
	}
	e.noteBeat(s, now, address)
	s.doing.report(r.Vitals)
	r.Vitals = nil
	s.heartbeat, s.heardAt, s.address, s.certificate, s.goodbye = r, now, address, c, false
	s.interval = f.intervalLocked()
	e.noteDouble(now)
	if said := registryPart(r, c); said != e.reported {
		e.reported = said
		f.dirty[who.ID] = struct{}{}
	}
	f.bumpLocked()
	return s.interval
}

// registryPart returns what of a heartbeat the registry keeps.
func registryPart(r *gwv1.HeartbeatRequest, c Certificate) registered {
	return registered{
		version: r.Version, build: r.Build, checksum: string(r.LoadedChecksum), serial: c.Serial,
		epoch: r.LoadedEpoch, release: r.LoadedRelease, notAfter: c.NotAfter.UnixNano(), lineage: c.Lineage,
		schema: r.SchemaLevel, failure: failurePart(r.ApplyError),
	}
}

// OpenStream notes that a process has opened its watch stream. The stream must end when gone is closed, and call release
// once when it has ended. ok is false if so many streams of the edge are open that this one must not be.
func (f *Fleet) OpenStream(who identity.Edge, sessionID, address string) (gone <-chan struct{}, release func(), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	e := f.edgeLocked(who)
	if e.streams >= maxStreams {
		return nil, nil, false
	}
	e.streams++
	s := e.session(sessionID, now, f.interval)
	e.noteStream(s, now, address)
	s.streams++
	s.streamSince, s.goodbye = now, false
	if s.address == "" {
		s.address = address
	}
	f.bumpLocked()
	return e.gone, sync.OnceFunc(func() { f.closeStream(e, s) }), true
}

func (f *Fleet) closeStream(e *edge, s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e.streams--
	s.streams--
	s.streamSince = f.now()
	if s.streams == 0 && !s.goodbye {
		e.note(Heard{At: s.streamSince, Kind: gwv1.EdgeEventKind_EDGE_EVENT_KIND_STREAM_BROKE, Session: s.id})
	}
	f.bumpLocked()
}

// Goodbye notes that a process ends on purpose.
func (f *Fleet) Goodbye(edgeID, sessionID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.edges[edgeID]
	if e == nil {
		return
	}
	i := e.indexOf(sessionID)
	if i < 0 {
		return
	}
	e.sessions[i].goodbye = true
	e.note(Heard{At: f.now(), Kind: gwv1.EdgeEventKind_EDGE_EVENT_KIND_GOODBYE, Session: sessionID})
	if len(e.sessions) > 1 {
		e.sessions = slices.Delete(e.sessions, i, i+1)
	}
	f.bumpLocked()
}

// Forget drops all that was heard from an edge and ends its streams. If a process still runs, its next heartbeat is like
// its first.
func (f *Fleet) Forget(edgeID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.edges[edgeID]
	if e == nil {
		return
	}
	close(e.gone)
	delete(f.edges, edgeID)
	delete(f.dirty, edgeID)
	f.bumpLocked()
}

// edgeLocked returns the entry of an edge ID, new if need be. An edge that comes back in another namespace is another
// edge: the streams of the one before end.
func (f *Fleet) edgeLocked(who identity.Edge) *edge {
	e := f.edges[who.ID]
	if e != nil && e.namespace != who.Namespace {
		close(e.gone)
		e = nil
	}
	if e == nil {
		e = &edge{namespace: who.Namespace, gone: make(chan struct{})}
		f.edges[who.ID] = e
	}
	return e
}

// session returns the process with this session ID, new if need be; the one heard longest ago makes room for it.
func (e *edge) session(id string, now time.Time, interval time.Duration) *session {
	if i := e.indexOf(id); i >= 0 {
		return e.sessions[i]
	}
	e.sessions = slices.DeleteFunc(e.sessions, func(s *session) bool {
		return s.goodbye || now.Sub(s.lastSign()) >= lostAfter(s.interval)
	})
	if len(e.sessions) >= maxSessions {
		oldest := slices.MinFunc(e.sessions, func(a, b *session) int { return a.lastSign().Compare(b.lastSign()) })
		e.sessions = slices.DeleteFunc(e.sessions, func(s *session) bool { return s == oldest })
	}
	s := &session{id: id, firstHeard: now, streamSince: now, interval: interval}
	e.sessions = append(e.sessions, s)
	return s
}

// indexOf returns where a process is among the sessions, or -1.
func (e *edge) indexOf(id string) int {
	return slices.IndexFunc(e.sessions, func(s *session) bool { return s.id == id })
}

// lastSign returns when the process last showed that it lives, by a heartbeat or else by being first heard.
func (s *session) lastSign() time.Time {
	if s.heardAt.IsZero() {
		return s.firstHeard
	}
	return s.heardAt
}

// Interval returns what edges are told now about how often to beat.
func (f *Fleet) Interval() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.intervalLocked()
}

func (f *Fleet) intervalLocked() time.Duration {
	return f.load.stretch(max(f.interval, time.Duration(len(f.edges))*time.Second/beatsPerSecond))
}

func (f *Fleet) bumpLocked() {
	f.revision++
	close(f.changed)
	f.changed = make(chan struct{})
}

// Revision returns a number that rises with every change of what the fleet shows.
func (f *Fleet) Revision() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.revision
}

// Wait blocks until the revision is above after, and returns it; or until ctx ends.
func (f *Fleet) Wait(ctx context.Context, after uint64) (uint64, error) {
	for {
		f.mu.Lock()
		revision, changed := f.revision, f.changed
		f.mu.Unlock()
		if revision > after {
			return revision, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return revision, ctx.Err()
		}
	}
}
