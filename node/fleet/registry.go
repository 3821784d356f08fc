package fleet

import (
	"slices"
	"time"

	"gw/rpc/gwv1"
)

// Drain returns at most limit records of edges of which something changed that the registry keeps, and forgets that it
// changed; the order is that of their IDs. Only what edges themselves tell is set: ID, namespace, version, build,
// schema level, certificate, what is loaded, and what could not be; whoever records it adds the rest. What can't be recorded is given back with MarkDirty.
func (f *Fleet) Drain(limit int) []*gwv1.EdgeRecord {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := make([]string, 0, len(f.dirty))
	for id := range f.dirty {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	ids = ids[:min(limit, len(ids))]
	var records []*gwv1.EdgeRecord
	for _, id := range ids {
		delete(f.dirty, id)
		if e := f.edges[id]; e != nil {
			records = append(records, e.record(id))
		}
	}
	return records
}

func (e *edge) record(id string) *gwv1.EdgeRecord {
	r := e.reported
	kept := &gwv1.EdgeRecord{
		Id: id, Namespace: e.namespace, Version: r.version, Build: r.build,
		CertificateSerial: r.serial, CertificateNotAfter: r.notAfter, Lineage: r.lineage,
		LoadedEpoch: r.epoch, LoadedRelease: r.release, LoadedChecksum: []byte(r.checksum), SchemaLevel: r.schema,
	}
	if f := r.failure; f != (failure{}) {
		kept.Failure = &gwv1.LoadFailure{Epoch: f.epoch, Release: f.release, Code: f.code, Kind: f.kind, Name: f.name,
			Field: f.field, Message: f.message}
	}
	return kept
}

// MarkDirty makes the next Drain return these edges, if they are still known.
func (f *Fleet) MarkDirty(edgeIDs ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range edgeIDs {
		if e := f.edges[id]; e != nil && e.reported != (registered{}) {
			f.dirty[id] = struct{}{}
		}
	}
}

// Away returns how long nothing has been heard from an edge that the registry knows since firstSeen. A new leader
// counts from the beginning of its leadership.
func (f *Fleet) Away(edgeID string, firstSeen time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := f.leaderSince
	if firstSeen.After(last) {
		last = firstSeen
	}
	if e := f.edges[edgeID]; e != nil {
		for _, s := range e.sessions {
			if s.streams > 0 {
				return 0
			}
			if s.lastSign().After(last) {
				last = s.lastSign()
			}
		}
	}
	return f.now().Sub(last)
}

// Elapse notes which edges have fallen silent, and raises the revision if time alone has changed the connection of an edge since Elapse was last called: a stream
// has been broken for too long, a heartbeat is late, or the grace period ended.
func (f *Fleet) Elapse() {
	f.mu.Lock()
	defer f.mu.Unlock()
	since, now := f.looked, f.now()
	f.looked = now
	passed := func(at time.Time) bool { return at.After(since) && !at.After(now) }
	crossed := passed(f.leaderSince.Add(Grace(f.interval)))
	for _, e := range f.edges {
		for _, s := range e.sessions {
			late, lost := passed(s.lastSign().Add(lateAfter(s.interval))), passed(s.lastSign().Add(lostAfter(s.interval)))
			crossed = crossed || late || lost || s.streams == 0 && passed(s.streamSince.Add(streamGrace))
			e.noteSilence(s, late, lost)
		}
	}
	if crossed {
		f.bumpLocked()
	}
}
