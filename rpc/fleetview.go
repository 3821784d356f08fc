package rpc

import (
	"cmp"
	"slices"
	"time"

	"gw/node/fleet"
	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// view is the fleet as it is now: registered edges, and those that were heard and are not registered yet.
type view struct {
	edges []seen // sorted by ID
}

// seen is one edge of a view and its states. It is put into words when it is shown, since most of a view is only counted.
type seen struct {
	fleet.States
	id      string
	record  *gwv1.EdgeRecord // nil: it is not registered yet
	live    *fleet.Live      // nil: it was not heard
	revoked *gwv1.RevocationRecord
	wanted  *wanted
	among   *classifier
}

// counts is how many edges a namespace has.
type counts struct{ edges, connected uint32 }

func (v view) counts() map[string]counts {
	all := map[string]counts{}
	for i := range v.edges {
		e := &v.edges[i]
		c := all[e.namespace()]
		c.edges++
		if e.Connection == gwv1.Connection_CONNECTION_CONNECTED {
			c.connected++
		}
		all[e.namespace()] = c
	}
	return all
}

// viewFleet classifies every edge.
func (k *core) viewFleet(st *state.State) view {
	c := k.newClassifier(st)
	live := k.fleet.All()
	v := view{edges: make([]seen, 0, len(live))}
	for r := range st.Edges() {
		v.edges = append(v.edges, c.classify(r, live[r.Id], r.Id))
		delete(live, r.Id)
	}
	if len(live) == 0 {
		return v
	}
	for id, l := range live {
		v.edges = append(v.edges, c.classify(nil, l, id))
	}
	slices.SortFunc(v.edges, func(a, b seen) int { return cmp.Compare(a.id, b.id) })
	return v
}

// classifier knows what edges are compared with, looked up once per namespace.
type classifier struct {
	core             *core
	state            *state.State
	now, leaderSince time.Time
	interval         time.Duration
	following        bool                              // this hub does not lead
	wanted           map[string]*wanted                // namespace → what its edges should run
	revocations      map[string]*gwv1.RevocationRecord // edge ID → its newest
}

type wanted struct {
	target   fleet.Target
	expected resource.Digest
}

func (k *core) newClassifier(st *state.State) *classifier {
	c := &classifier{core: k, state: st, now: k.now(), leaderSince: k.fleet.LeaderSince(), interval: k.fleet.Interval(), following: !k.store.Leading(),
		wanted: map[string]*wanted{}, revocations: map[string]*gwv1.RevocationRecord{}}
	if leads, _ := k.tenure.get(); !leads && !c.following {
		c.leaderSince = c.now // its duties are about to begin, and what it knows of the time before is old
	}
	for r := range st.Revocations() {
		c.revocations[r.EdgeId] = r
	}
	return c
}

func (c *classifier) of(namespace string) *wanted {
	w, ok := c.wanted[namespace]
	if !ok {
		w = &wanted{target: fleet.Target{Checksum: resource.EmptyChecksum}, expected: c.core.store.Manifest(namespace).Checksum}
		if r, ok := c.state.Target(namespace); ok {
			w.target = fleet.Target{Epoch: r.Epoch, Number: r.Number, Checksum: r.Checksum, PushedAt: time.Unix(0, r.CreatedAt)}
		}
		c.wanted[namespace] = w
	}
	return w
}

// classify sees an edge of which something is known.
func (c *classifier) classify(r *gwv1.EdgeRecord, l *fleet.Live, id string) seen {
	e := seen{id: id, record: r, live: l, revoked: c.revoked(r, l, id), among: c}
	e.wanted = c.of(e.namespace())
	f := e.facts()
	e.States = fleet.Classify(&f)
	return e
}

// facts are what the edge's states follow from.
func (e *seen) facts() fleet.Facts {
	c := e.among
	return fleet.Facts{Record: e.record, Live: e.live, Revoked: e.revoked, Target: e.wanted.target, Expected: e.wanted.expected,
		Now: c.now, LeaderSince: c.leaderSince, Interval: c.interval, Following: c.following}
}

// shown puts the edge into words.
func (e *seen) shown() *gwv1.Edge {
	f := e.facts()
	shown := fleet.Describe(&f)
	shown.Id = e.id
	return shown
}

// connectionReason and syncReason say why the edge is where it is; "" of nil.
func (e *seen) connectionReason() string {
	if e == nil {
		return ""
	}
	f := e.facts()
	return e.ConnectionReason(&f)
}

func (e *seen) syncReason() string {
	if e == nil {
		return ""
	}
	f := e.facts()
	return e.SyncReason(&f)
}

func (e *seen) onTarget() bool {
	f := e.facts()
	return f.OnTarget()
}

// What an edge says of itself stands over what the registry has of it.

func (e *seen) namespace() string {
	if e.live != nil {
		return e.live.Namespace
	}
	return e.record.GetNamespace()
}

// heartbeat is the last one; nil if none was heard.
func (e *seen) heartbeat() *gwv1.HeartbeatRequest {
	if e.live == nil {
		return nil
	}
	return e.live.Heartbeat
}

func (e *seen) version() string {
	if h := e.heartbeat(); h != nil {
		return h.Version
	}
	return e.record.GetVersion()
}

// schema is the highest schema level the edge knows; 0: it has not said.
func (e *seen) schema() uint32 {
	if h := e.heartbeat(); h != nil {
		return h.SchemaLevel
	}
	return e.record.GetSchemaLevel()
}

// heardAt is when the last heartbeat came; zero if none did.
func (e *seen) heardAt() time.Time {
	if e.live == nil {
		return time.Time{}
	}
	return e.live.HeardAt
}

// certificateEnds is zero if it is not known.
func (e *seen) certificateEnds() time.Time {
	switch {
	case e.heartbeat() != nil:
		return e.live.Certificate.NotAfter
	case e.record.GetCertificateNotAfter() != 0:
		return time.Unix(0, e.record.CertificateNotAfter)
	}
	return time.Time{}
}

// rates are those of an edge that is there; nil if it doesn't say.
func (e *seen) rates() *fleet.Rates {
	if e.Connection != gwv1.Connection_CONNECTION_CONNECTED {
		return nil
	}
	return e.live.GetRates()
}

// revoked returns what ended the certificates of an edge; nil if they are good.
func (c *classifier) revoked(r *gwv1.EdgeRecord, l *fleet.Live, id string) *gwv1.RevocationRecord {
	newest := c.revocations[id]
	if newest == nil {
		return nil
	}
	lineage := r.GetLineage()
	if r == nil {
		lineage = l.Certificate.Lineage
	}
	if lineage < newest.Before {
		return newest
	}
	return nil
}
