package fleet

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

const (
	// streamGrace is how long a watch stream may be broken before its edge is shown as stale.
	streamGrace = 10 * time.Second
	// certificateShort is when a certificate is too short: it lives for a day, and with 8 h left it should be renewed.
	certificateShort = 4 * time.Hour
	// pushGrace is how long after a push an edge may still be on its way to it.
	pushGrace = 60 * time.Second
	minGrace  = 90 * time.Second
)

// lateAfter is how old a heartbeat may be before its edge is shown as stale, lostAfter before it is disconnected.
func lateAfter(interval time.Duration) time.Duration { return interval * 5 / 2 }
func lostAfter(interval time.Duration) time.Duration { return interval * 4 }

// Grace is how long after a change of leadership no edge is shown as lost: three heartbeats, and at least 90 s.
func Grace(interval time.Duration) time.Duration { return max(minGrace, 3*interval) }

// Target is what edges of a namespace should run. Number 0: no release was made, and Checksum is resource.EmptyChecksum.
type Target struct {
	Epoch, Number uint64
	Checksum      resource.Digest
	PushedAt      time.Time
}

// Facts is all that the states of one edge follow from.
type Facts struct {
	// Record is the registry's entry; nil if it has none yet.
	Record *gwv1.EdgeRecord
	// Revoked is what ended its certificates; nil if they are good.
	Revoked *gwv1.RevocationRecord
	// Live is what this leader heard; nil if nothing.
	Live   *Live
	Target Target
	// Expected is the checksum of the namespace's working configuration.
	Expected         resource.Digest
	Now, LeaderSince time.Time
	// Following: the hub that is asked does not lead, so it hears no edges and knows only what is registered.
	Following bool
	// Interval is between two heartbeats, for an edge that wasn't told its own yet.
	Interval time.Duration
}

// Classify returns the edge as it is to be shown, each of its three states with a sentence that says why. Record and
// Live must not both be nil.
func Classify(f Facts) *gwv1.Edge {
	if f.Live != nil && f.Live.Interval > 0 {
		f.Interval = f.Live.Interval
	}
	e := describe(f)
	e.Connection, e.ConnectionReason = connection(f)
	if e.ConflictingSessionId != "" {
		e.ConnectionReason += fmt.Sprintf("; another live process, session %.8s%s, carries the same ID", e.ConflictingSessionId, at(e.ConflictingAddress))
	}
	e.Sync, e.SyncReason = configSync(f, e)
	e.Health, e.HealthReason = health(f)
	return e
}

func at(address string) string {
	if address == "" {
		return ""
	}
	return " at " + address
}

// describe fills in what is not a state.
func describe(f Facts) *gwv1.Edge {
	e := &gwv1.Edge{
		ReleasedChecksum: f.Target.Checksum.String(), ExpectedChecksum: f.Expected.String(), TargetRelease: f.Target.Number,
	}
	if r := f.Record; r != nil {
		e.Id, e.Namespace, e.Labels, e.Ephemeral = r.Id, r.Namespace, r.Labels, r.Ephemeral
		e.Version, e.Build = r.Version, r.Build
		e.LoadedChecksum, e.LoadedRelease = hex.EncodeToString(r.LoadedChecksum), r.LoadedRelease
		e.FirstSeen, e.CertificateNotAfter = timestamp(r.FirstSeen), timestamp(r.CertificateNotAfter)
	}
	if r := f.Revoked; r != nil {
		e.RevokedAt, e.RevokedBy = timestamp(r.At), r.By
	}
	l := f.Live
	if l == nil {
		return e
	}
	e.Namespace, e.SessionId, e.RemoteAddress = l.Namespace, l.SessionID, l.Address
	if f.Revoked == nil {
		e.ConflictingSessionId, e.ConflictingAddress = l.ConflictingSessionID, l.ConflictingAddress
	}
	if e.FirstSeen == nil {
		e.FirstSeen = timestamppb.New(l.FirstHeard)
	}
	if h := l.Heartbeat; h != nil {
		e.Version, e.Build, e.Metadata, e.StartedAt = h.Version, h.Build, h.Metadata, h.StartedAt
		e.LoadedChecksum, e.LoadedRelease = hex.EncodeToString(h.LoadedChecksum), h.LoadedRelease
		e.AccessVersion, e.ApplyError = h.AccessVersion, h.ApplyError
		e.LastHeartbeat, e.CertificateNotAfter = timestamppb.New(l.HeardAt), timestamppb.New(l.Certificate.NotAfter)
	}
	return e
}

// connection is the first axis.
func connection(f Facts) (gwv1.Connection, string) {
	const connected, stale, lost = gwv1.Connection_CONNECTION_CONNECTED, gwv1.Connection_CONNECTION_STALE, gwv1.Connection_CONNECTION_DISCONNECTED
	l := f.Live
	switch {
	case f.Revoked != nil:
		return lost, fmt.Sprintf("revoked by %s %s ago; it can enrol again with a fresh join token", f.Revoked.By, span(f.Now.Sub(time.Unix(0, f.Revoked.At))))
	case l == nil:
		return unheard(f)
	case l.Goodbye:
		return lost, "it said goodbye"
	}
	last, what := l.HeardAt, "its last heartbeat came"
	if last.IsZero() {
		last, what = l.FirstHeard, "it has not sent a heartbeat since it connected"
	}
	age := f.Now.Sub(last)
	switch {
	case age >= lostAfter(f.Interval):
		return lost, fmt.Sprintf("%s %s ago; one is due every %s", what, span(age), f.Interval)
	case !l.Streaming && f.Now.Sub(l.StreamSince) >= streamGrace:
		if l.StreamSince.Equal(l.FirstHeard) {
			return stale, fmt.Sprintf("it was first heard %s ago and has not opened its watch stream", span(f.Now.Sub(l.FirstHeard)))
		}
		return stale, fmt.Sprintf("its watch stream broke %s ago", span(f.Now.Sub(l.StreamSince)))
	case age >= lateAfter(f.Interval):
		return stale, fmt.Sprintf("%s %s ago; one is due every %s", what, span(age), f.Interval)
	case l.HeardAt.IsZero():
		return connected, fmt.Sprintf("its watch stream opened %s ago", span(age))
	}
	return connected, fmt.Sprintf("its last heartbeat came %s ago", span(age))
}

// unheard is the connection of an edge that is in the registry and has not been heard.
func unheard(f Facts) (gwv1.Connection, string) {
	enrolled := time.Unix(0, f.Record.FirstSeen)
	sinceChange, sinceEnrolled := f.Now.Sub(f.LeaderSince), f.Now.Sub(enrolled)
	switch {
	case f.Following:
		return gwv1.Connection_CONNECTION_STALE, "this hub does not lead, and only the leader hears edges"
	case enrolled.After(f.LeaderSince) && sinceEnrolled < lostAfter(f.Interval):
		return gwv1.Connection_CONNECTION_STALE, fmt.Sprintf("it enrolled %s ago and has not been heard yet", span(sinceEnrolled))
	case enrolled.After(f.LeaderSince):
		return gwv1.Connection_CONNECTION_DISCONNECTED, fmt.Sprintf("it enrolled %s ago and was never heard", span(sinceEnrolled))
	case inGrace(f):
		return gwv1.Connection_CONNECTION_STALE, fmt.Sprintf("leader changed %s ago and has not heard it yet", span(sinceChange))
	}
	return gwv1.Connection_CONNECTION_DISCONNECTED, fmt.Sprintf("not heard since the leader changed %s ago", span(sinceChange))
}

func inGrace(f Facts) bool { return f.Now.Sub(f.LeaderSince) < Grace(f.Interval) }

// loaded is what an edge last said it runs.
type loaded struct {
	epoch, release uint64
	checksum       []byte
	failure        *gwv1.ApplyError
}

func loadedOf(f Facts) (l loaded) {
	if r := f.Record; r != nil {
		l = loaded{epoch: r.LoadedEpoch, release: r.LoadedRelease, checksum: r.LoadedChecksum}
	}
	if f.Live != nil && f.Live.Heartbeat != nil {
		h := f.Live.Heartbeat
		l = loaded{epoch: h.LoadedEpoch, release: h.LoadedRelease, checksum: h.LoadedChecksum, failure: h.ApplyError}
	}
	return l
}

// configSync is the second axis; e has its connection already.
func configSync(f Facts, e *gwv1.Edge) (gwv1.Sync, string) {
	const unknown, stale, pending = gwv1.Sync_SYNC_UNKNOWN, gwv1.Sync_SYNC_STALE, gwv1.Sync_SYNC_PENDING
	l, target := loadedOf(f), f.Target
	heard := f.Live != nil && f.Live.Heartbeat != nil
	switch {
	case len(l.checksum) == 0:
		return unknown, "it has not said what it runs yet"
	case !heard && f.Following:
		return unknown, "this hub does not lead, and only the leader hears edges"
	case !heard && inGrace(f):
		return unknown, fmt.Sprintf("leader changed %s ago and has not heard it yet", span(f.Now.Sub(f.LeaderSince)))
	}
	same := bytes.Equal(l.checksum, target.Checksum[:])
	against := cmp.Or(cmp.Compare(l.epoch, target.Epoch), cmp.Compare(l.release, target.Number))
	behind := fmt.Sprintf("it runs %s, the target is %s", release(l.release), release(target.Number))
	switch {
	case against > 0:
		return stale, fmt.Sprintf("ahead: it runs %s of epoch %d, newer than %s of epoch %d here; the next push brings it back",
			release(l.release), l.epoch, release(target.Number), target.Epoch)
	case against == 0 && !same:
		return stale, fmt.Sprintf("drifted: it runs %s with checksum %.4x instead of %s", release(l.release), l.checksum, target.Checksum.Short())
	case !same && failedOn(l.failure, target):
		return stale, "could not apply " + release(target.Number) + ": " + Culprit(l.failure)
	case !same && e.Connection != gwv1.Connection_CONNECTION_CONNECTED:
		return stale, behind + ", and it is not connected"
	case !same && f.Now.Sub(target.PushedAt) > pushGrace:
		return stale, fmt.Sprintf("%s, pushed %s ago", behind, span(f.Now.Sub(target.PushedAt)))
	case !same:
		return pending, fmt.Sprintf("on its way: %s, pushed %s ago", behind, span(f.Now.Sub(target.PushedAt)))
	case target.Checksum != f.Expected:
		return pending, "its namespace has unpushed changes"
	}
	return gwv1.Sync_SYNC_IN_SYNC, fmt.Sprintf("it runs %s as saved", release(target.Number))
}

// failedOn reports whether the edge could not apply this very target.
func failedOn(e *gwv1.ApplyError, t Target) bool {
	return e != nil && e.Epoch == t.Epoch && e.Release == t.Number
}

// Culprit says in a line what of a release an edge could not apply.
func Culprit(e *gwv1.ApplyError) string {
	where := ""
	if e.Kind != "" || e.Name != "" {
		where = e.Kind + "/" + e.Name
	}
	if e.Field != "" {
		where += " " + e.Field
	}
	switch {
	case where == "" && e.Message == "":
		return e.Code
	case where == "":
		return e.Message
	}
	return where + ": " + e.Message
}

// health is the third axis: what the edge itself says, and whether its certificate is about to end.
func health(f Facts) (gwv1.Health, string) {
	if f.Live == nil || f.Live.Heartbeat == nil {
		return gwv1.Health_HEALTH_UNSPECIFIED, "it has not said how it is yet"
	}
	h, left := f.Live.Heartbeat, f.Live.Certificate.NotAfter.Sub(f.Now)
	switch {
	case f.Live.Certificate.NotAfter.IsZero() || left >= certificateShort:
		return h.Health, said(h)
	case h.Health == gwv1.Health_HEALTH_OK:
		return gwv1.Health_HEALTH_DEGRADED, shortCertificate(left)
	}
	return h.Health, said(h) + "; " + shortCertificate(left)
}

// said is what an edge says of its health.
func said(h *gwv1.HeartbeatRequest) string {
	switch {
	case h.HealthReason != "":
		return h.HealthReason
	case h.Health == gwv1.Health_HEALTH_OK:
		return "nothing is wrong"
	}
	return "it gave no reason"
}

func shortCertificate(left time.Duration) string {
	if left <= 0 {
		return fmt.Sprintf("its certificate ended %s ago and was not renewed", span(-left))
	}
	return fmt.Sprintf("its certificate ends in %s and was not renewed when it was due", span(left))
}

func release(number uint64) string {
	if number == 0 {
		return "no release"
	}
	return fmt.Sprintf("release %d", number)
}

// span shows a duration to people: whole seconds.
func span(d time.Duration) string { return max(d, 0).Truncate(time.Second).String() }

func timestamp(unixNano int64) *timestamppb.Timestamp {
	if unixNano == 0 {
		return nil
	}
	return timestamppb.New(time.Unix(0, unixNano))
}
