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

// States are the three axes of an edge. Those of a whole fleet are counted far more often than they are told, so why an
// edge is in them is put into words only by Describe, or one at a time.
type States struct {
	Connection gwv1.Connection
	Sync       gwv1.Sync
	Health     gwv1.Health

	whyConnection, whySync, whyHealth why
}

// why says in a sentence why the facts lead to a state. It captures nothing, so that it costs nothing until it is asked.
type why func(*Facts) string

// Classify returns the states of an edge. Record and Live must not both be nil.
func Classify(f *Facts) (s States) {
	s.Connection, s.whyConnection = connection(f)
	s.Sync, s.whySync = configSync(f, s.Connection)
	s.Health, s.whyHealth = health(f)
	return s
}

// ConnectionReason says why an edge that Classify was given these facts of has its Connection.
func (s *States) ConnectionReason(f *Facts) string {
	reason := s.whyConnection(f)
	if id, address := f.conflict(); id != "" {
		reason += fmt.Sprintf("; another live process, session %.8s%s, carries the same ID", id, at(address))
	}
	return reason
}

// SyncReason says why an edge that Classify was given these facts of has its Sync.
func (s *States) SyncReason(f *Facts) string { return s.whySync(f) }

// Describe returns the edge as it is to be shown, each of its states with a sentence that says why.
func Describe(f *Facts) *gwv1.Edge {
	e, s := attributes(f), Classify(f)
	e.Connection, e.ConnectionReason = s.Connection, s.ConnectionReason(f)
	e.Sync, e.SyncReason = s.Sync, s.SyncReason(f)
	e.Health, e.HealthReason = s.Health, s.whyHealth(f)
	return e
}

// interval is between two heartbeats of this edge.
func (f *Facts) interval() time.Duration {
	if f.Live != nil && f.Live.Interval > 0 {
		return f.Live.Interval
	}
	return f.Interval
}

// conflict is another process that is alive with the edge's ID, and where it calls from; "" if there is none, or if the
// certificates of both are worth nothing.
func (f *Facts) conflict() (session, address string) {
	if f.Live == nil || f.Revoked != nil {
		return "", ""
	}
	return f.Live.ConflictingSessionID, f.Live.ConflictingAddress
}

func at(address string) string {
	if address == "" {
		return ""
	}
	return " at " + address
}

// attributes are what is not a state.
func attributes(f *Facts) *gwv1.Edge {
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
	e.ConflictingSessionId, e.ConflictingAddress = f.conflict()
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
func connection(f *Facts) (gwv1.Connection, why) {
	const connected, stale, lost = gwv1.Connection_CONNECTION_CONNECTED, gwv1.Connection_CONNECTION_STALE, gwv1.Connection_CONNECTION_DISCONNECTED
	l := f.Live
	switch {
	case f.Revoked != nil:
		return lost, func(f *Facts) string {
			return fmt.Sprintf("revoked by %s %s ago; it can enrol again with a fresh join token", f.Revoked.By, f.since(time.Unix(0, f.Revoked.At)))
		}
	case l == nil:
		return unheard(f)
	case l.Goodbye:
		return lost, func(*Facts) string { return "it said goodbye" }
	}
	age := f.Now.Sub(l.lastSign())
	switch {
	case age >= lostAfter(f.interval()):
		return lost, overdue
	case !l.Streaming && f.Now.Sub(l.StreamSince) >= streamGrace:
		if l.StreamSince.Equal(l.FirstHeard) {
			return stale, func(f *Facts) string {
				return fmt.Sprintf("it was first heard %s ago and has not opened its watch stream", f.since(f.Live.FirstHeard))
			}
		}
		return stale, func(f *Facts) string {
			return fmt.Sprintf("its watch stream broke %s ago", f.since(f.Live.StreamSince))
		}
	case age >= lateAfter(f.interval()):
		return stale, overdue
	case l.HeardAt.IsZero():
		return connected, func(f *Facts) string {
			return fmt.Sprintf("its watch stream opened %s ago", f.since(f.Live.FirstHeard))
		}
	}
	return connected, func(f *Facts) string { return fmt.Sprintf("its last heartbeat came %s ago", f.since(f.Live.HeardAt)) }
}

func overdue(f *Facts) string {
	what := "its last heartbeat came"
	if f.Live.HeardAt.IsZero() {
		what = "it has not sent a heartbeat since it connected"
	}
	return fmt.Sprintf("%s %s ago; one is due every %s", what, f.since(f.Live.lastSign()), f.interval())
}

// unheard is the connection of an edge that is in the registry and has not been heard.
func unheard(f *Facts) (gwv1.Connection, why) {
	enrolled := f.enrolled()
	switch {
	case f.Following:
		return gwv1.Connection_CONNECTION_STALE, notHeardHere
	case enrolled.After(f.LeaderSince) && f.Now.Sub(enrolled) < lostAfter(f.interval()):
		return gwv1.Connection_CONNECTION_STALE, func(f *Facts) string {
			return fmt.Sprintf("it enrolled %s ago and has not been heard yet", f.since(f.enrolled()))
		}
	case enrolled.After(f.LeaderSince):
		return gwv1.Connection_CONNECTION_DISCONNECTED, func(f *Facts) string {
			return fmt.Sprintf("it enrolled %s ago and was never heard", f.since(f.enrolled()))
		}
	case inGrace(f):
		return gwv1.Connection_CONNECTION_STALE, notHeardYet
	}
	return gwv1.Connection_CONNECTION_DISCONNECTED, func(f *Facts) string {
		return fmt.Sprintf("not heard since the leader changed %s ago", f.since(f.LeaderSince))
	}
}

func notHeardHere(*Facts) string { return "this hub does not lead, and only the leader hears edges" }

func notHeardYet(f *Facts) string {
	return fmt.Sprintf("leader changed %s ago and has not heard it yet", f.since(f.LeaderSince))
}

func inGrace(f *Facts) bool { return f.Now.Sub(f.LeaderSince) < Grace(f.interval()) }

// enrolled is when the edge did. It is in the registry.
func (f *Facts) enrolled() time.Time { return time.Unix(0, f.Record.FirstSeen) }

// since shows how long ago something was.
func (f *Facts) since(t time.Time) string { return span(f.Now.Sub(t)) }

// loaded is what an edge last said it runs.
type loaded struct {
	epoch, release uint64
	checksum       []byte
	failure        *gwv1.ApplyError
}

func loadedOf(f *Facts) (l loaded) {
	if r := f.Record; r != nil {
		l = loaded{epoch: r.LoadedEpoch, release: r.LoadedRelease, checksum: r.LoadedChecksum}
	}
	if f.Live != nil && f.Live.Heartbeat != nil {
		h := f.Live.Heartbeat
		l = loaded{epoch: h.LoadedEpoch, release: h.LoadedRelease, checksum: h.LoadedChecksum, failure: h.ApplyError}
	}
	return l
}

// OnTarget reports whether the edge last said that it runs what it should.
func (f *Facts) OnTarget() bool { return bytes.Equal(loadedOf(f).checksum, f.Target.Checksum[:]) }

// configSync is the second axis, of an edge with such a connection.
func configSync(f *Facts, c gwv1.Connection) (gwv1.Sync, why) {
	const unknown, stale, pending = gwv1.Sync_SYNC_UNKNOWN, gwv1.Sync_SYNC_STALE, gwv1.Sync_SYNC_PENDING
	l, target := loadedOf(f), &f.Target
	heard := f.Live != nil && f.Live.Heartbeat != nil
	switch {
	case len(l.checksum) == 0:
		return unknown, func(*Facts) string { return "it has not said what it runs yet" }
	case !heard && f.Following:
		return unknown, notHeardHere
	case !heard && inGrace(f):
		return unknown, notHeardYet
	}
	same := bytes.Equal(l.checksum, target.Checksum[:])
	against := cmp.Or(cmp.Compare(l.epoch, target.Epoch), cmp.Compare(l.release, target.Number))
	switch {
	case against > 0:
		return stale, ahead
	case against == 0 && !same:
		return stale, drifted
	case !same && failedOn(l.failure, target):
		return stale, func(f *Facts) string {
			return "could not apply " + release(f.Target.Number) + ": " + Culprit(loadedOf(f).failure)
		}
	case !same && c != gwv1.Connection_CONNECTION_CONNECTED:
		return stale, func(f *Facts) string { return behind(f) + ", and it is not connected" }
	case !same && f.Now.Sub(target.PushedAt) > pushGrace:
		return stale, func(f *Facts) string { return fmt.Sprintf("%s, pushed %s ago", behind(f), f.since(f.Target.PushedAt)) }
	case !same:
		return pending, func(f *Facts) string {
			return fmt.Sprintf("on its way: %s, pushed %s ago", behind(f), f.since(f.Target.PushedAt))
		}
	case target.Checksum != f.Expected:
		return pending, func(*Facts) string { return "its namespace has unpushed changes" }
	}
	return gwv1.Sync_SYNC_IN_SYNC, func(f *Facts) string { return fmt.Sprintf("it runs %s as saved", release(f.Target.Number)) }
}

func behind(f *Facts) string {
	return fmt.Sprintf("it runs %s, the target is %s", release(loadedOf(f).release), release(f.Target.Number))
}

func ahead(f *Facts) string {
	l := loadedOf(f)
	return fmt.Sprintf("ahead: it runs %s of epoch %d, newer than %s of epoch %d here; the next push brings it back",
		release(l.release), l.epoch, release(f.Target.Number), f.Target.Epoch)
}

func drifted(f *Facts) string {
	l := loadedOf(f)
	return fmt.Sprintf("drifted: it runs %s with checksum %.4x instead of %s", release(l.release), l.checksum, f.Target.Checksum.Short())
}

// failedOn reports whether the edge could not apply this very target.
func failedOn(e *gwv1.ApplyError, t *Target) bool {
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
func health(f *Facts) (gwv1.Health, why) {
	if f.Live == nil || f.Live.Heartbeat == nil {
		return gwv1.Health_HEALTH_UNSPECIFIED, func(*Facts) string { return "it has not said how it is yet" }
	}
	h, left := f.Live.Heartbeat, f.certificateLeft()
	switch {
	case f.Live.Certificate.NotAfter.IsZero() || left >= certificateShort:
		return h.Health, func(f *Facts) string { return said(f.Live.Heartbeat) }
	case h.Health == gwv1.Health_HEALTH_OK:
		return gwv1.Health_HEALTH_DEGRADED, func(f *Facts) string { return shortCertificate(f.certificateLeft()) }
	}
	return h.Health, func(f *Facts) string { return said(f.Live.Heartbeat) + "; " + shortCertificate(f.certificateLeft()) }
}

func (f *Facts) certificateLeft() time.Duration { return f.Live.Certificate.NotAfter.Sub(f.Now) }

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
