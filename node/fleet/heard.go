package fleet

import (
	"fmt"
	"time"

	"gw/rpc/gwv1"
)

// maxHeard bounds what is remembered of the connections of one edge.
const maxHeard = 32

// Heard is one thing that the leader heard of an edge, or didn't.
type Heard struct {
	At      time.Time
	Kind    gwv1.EdgeEventKind
	Session string
	// Address of the process, where it matters.
	Address string
	// Away is for how long it wasn't heard, when it is back.
	Away time.Duration
}

// Sentence says it to people.
func (h Heard) Sentence() string {
	who := fmt.Sprintf("session %.8s", h.Session)
	from := ""
	if h.Address != "" {
		from = " from " + h.Address
	}
	switch h.Kind {
	case gwv1.EdgeEventKind_EDGE_EVENT_KIND_CONNECTED:
		return "connected" + from + ", " + who
	case gwv1.EdgeEventKind_EDGE_EVENT_KIND_STREAM_BROKE:
		return "its watch stream broke"
	case gwv1.EdgeEventKind_EDGE_EVENT_KIND_LATE:
		return "its heartbeat is late"
	case gwv1.EdgeEventKind_EDGE_EVENT_KIND_LOST:
		return "lost: four heartbeats are missing"
	case gwv1.EdgeEventKind_EDGE_EVENT_KIND_BACK:
		return fmt.Sprintf("back%s after %s", from, span(h.Away))
	case gwv1.EdgeEventKind_EDGE_EVENT_KIND_GOODBYE:
		return "said goodbye"
	case gwv1.EdgeEventKind_EDGE_EVENT_KIND_DUPLICATE:
		return "a second live process carries this ID, " + who + from
	}
	return ""
}

// Heard returns what this leader heard of an edge's connections, oldest first; at most the newest 32.
func (f *Fleet) Heard(edgeID string) []Heard {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.edges[edgeID]; e != nil {
		return append([]Heard(nil), e.heard...)
	}
	return nil
}

func (e *edge) note(h Heard) {
	if len(e.heard) == maxHeard {
		copy(e.heard, e.heard[1:])
		e.heard[maxHeard-1] = h
		return
	}
	e.heard = append(e.heard, h)
}

// noteStream notes that a process connected, or is back. A stream that overlaps another one, because the certificate was
// renewed, is nothing new.
func (e *edge) noteStream(s *session, now time.Time, address string) {
	switch {
	case s.streams > 0:
	case s.streamSince.Equal(s.firstHeard): // there was no stream yet
		e.note(Heard{At: now, Kind: gwv1.EdgeEventKind_EDGE_EVENT_KIND_CONNECTED, Session: s.id, Address: address})
	default:
		e.note(Heard{At: now, Kind: gwv1.EdgeEventKind_EDGE_EVENT_KIND_BACK, Session: s.id, Address: address, Away: now.Sub(s.streamSince)})
	}
}

// noteBeat notes a heartbeat that ends a silence.
func (e *edge) noteBeat(s *session, now time.Time, address string) {
	if away := now.Sub(s.lastSign()); away >= lateAfter(s.interval) && !s.goodbye {
		e.note(Heard{At: now, Kind: gwv1.EdgeEventKind_EDGE_EVENT_KIND_BACK, Session: s.id, Address: address, Away: away})
	}
}

// noteSilence notes that a process is late, or lost. One that said goodbye is neither, and one that was killed and started
// again is no longer waited for.
func (e *edge) noteSilence(s *session, late, lost bool) {
	switch {
	case s.goodbye || s != e.shown():
	case lost:
		e.note(Heard{At: s.lastSign().Add(lostAfter(s.interval)), Kind: gwv1.EdgeEventKind_EDGE_EVENT_KIND_LOST, Session: s.id})
	case late:
		e.note(Heard{At: s.lastSign().Add(lateAfter(s.interval)), Kind: gwv1.EdgeEventKind_EDGE_EVENT_KIND_LATE, Session: s.id})
	}
}

// noteDouble notes once that two live processes carry the ID.
func (e *edge) noteDouble(now time.Time) {
	if len(e.sessions) == 1 {
		e.doubled = false
		return
	}
	l := e.live(now)
	if l.ConflictingSessionID != "" && !e.doubled {
		e.note(Heard{At: now, Kind: gwv1.EdgeEventKind_EDGE_EVENT_KIND_DUPLICATE, Session: l.ConflictingSessionID, Address: l.ConflictingAddress})
	}
	e.doubled = l.ConflictingSessionID != ""
}
