package rpc

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"gw/raftstore"
	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// tooManyStreams is when an edge that has too many streams may ask for one again: those that broke are found by then.
const tooManyStreams = 10 * time.Second

// changesPerMessage bounds a message of access changes to some hundred KiB.
const changesPerMessage = 5000

// Watch sends access changes since the edge's version, a tick on open and every 5 s, and notices between them.
func (s *EdgeServer) Watch(ctx context.Context, r *gwv1.WatchRequest, stream *connect.ServerStream[gwv1.WatchResponse]) error {
	w, err := s.openWatch(ctx, r, stream)
	if err != nil {
		return err
	}
	defer w.close()
	// Most of what a hub holds is goroutines that stand here: the less is on their stacks, the smaller those are.
	for {
		tick := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.gone:
			return w.sendRemoved()
		case <-w.changed:
		case w.loading <- struct{}{}:
			w.server.loading.hold(w.who.ID)
			w.loading, w.mayLoad = nil, true
		case <-w.turned:
			if !w.leads() {
				return raftstore.ErrNotLeader // the edge is to find the new one now, not at the next tick
			}
		case <-w.ticks:
			tick = true
		}
		if err := w.goOn(ctx, tick); err != nil {
			return err
		}
	}
}

// watch is one stream: what wakes it, and what it has told its edge.
type watch struct {
	server *EdgeServer
	who    caller
	send   func(*gwv1.WatchResponse) error // an error ends the stream

	gone    <-chan struct{}  // closed when the edge was removed
	changed <-chan struct{}  // closed at the next notice
	turned  <-chan struct{}  // closed when this hub begins or ends to lead
	ticks   <-chan time.Time // receives when a tick is due
	closing []func()

	// loading takes a place among the edges that a push reaches at a time; nil: none is wanted.
	loading chan<- struct{}
	mayLoad bool // there is one: the edge may be told a target that is new

	vetted  notice // up to where the edge's certificate is known to be good
	cluster string
	epoch   uint64
	access  uint64
	target  *gwv1.Target
	retry   uint64
	base    *state.Release // what the edge is thought to hold; nil: nothing, or nothing known here
}

// openWatch notes the stream and tells the edge what it missed. What it returns must be closed.
func (s *EdgeServer) openWatch(ctx context.Context, r *gwv1.WatchRequest, stream *connect.ServerStream[gwv1.WatchResponse]) (opened *watch, err error) {
	who, err := s.edgeOf(ctx)
	if err != nil {
		return nil, err
	}
	if e := s.gates.streams.admit(); e != nil {
		return nil, e
	}
	w := &watch{server: s, who: who, send: stream.Send}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	var stop, release func()
	w.ticks, stop = s.ticker(TickInterval)
	w.closing = append(w.closing, stop)
	// The channel is taken before the state is read, here and below, so that nothing falls between the two.
	w.changed = s.notices.next()
	_, w.turned = s.tenure.get()
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	if err := refuseRevoked(st, who); err != nil {
		return nil, err
	}
	var ok bool
	if w.gone, release, ok = s.fleet.OpenStream(who.Edge, r.SessionId, who.address); !ok {
		return nil, &Error{Reason: ReasonOverloaded, RetryAfter: tooManyStreams, Message: fmt.Sprintf(
			"edge %s has too many streams open: processes that share its ID, or streams that broke and have not been found to be", who.ID)}
	}
	w.closing = append(w.closing, release)
	return w, w.begin(st, r)
}

func (w *watch) close() {
	for _, f := range w.closing {
		f()
	}
}

// leads reports whether this hub's duties as leader run, and waits for the next turn.
func (w *watch) leads() bool {
	var leads bool
	leads, w.turned = w.server.tenure.get()
	return leads
}

// goOn tells the edge what is new, after something woke the stream. What woke all streams comes to each in its turn.
func (w *watch) goOn(ctx context.Context, tick bool) error {
	if !tick {
		leave, err := w.server.telling.enter(ctx)
		if err != nil {
			return err
		}
		defer leave()
	}
	w.changed = w.server.notices.next()
	if !w.server.store.Leading() {
		return raftstore.ErrNotLeader
	}
	st := w.server.store.State()
	if err := w.refuse(ctx, st); err != nil {
		return err
	}
	return w.tell(st, tick)
}

// refuse is nil unless the edge's certificate has ended meanwhile, or was revoked. A revocation is looked up only when there
// may be a new one: ticks are most of what a hub of a large fleet does.
func (w *watch) refuse(ctx context.Context, st *state.State) error {
	now := noticeOf(st)
	if now == w.vetted {
		return w.server.refuseEnded(w.who)
	}
	if _, err := w.server.edgeOf(ctx); err != nil {
		return err
	}
	w.vetted = now
	return nil
}

// notice is a point in what happens to single edges: revocations, and retries that are asked for.
type notice struct{ epoch, version uint64 }

func noticeOf(st *state.State) notice {
	c := st.Cluster()
	return notice{c.Epoch, c.EdgeNotice}
}

func (w *watch) sendRemoved() error {
	return w.send(&gwv1.WatchResponse{Event: &gwv1.WatchResponse_Removed{Removed: &gwv1.Removed{}}})
}

// begin tells an edge what it missed, and then where things stand.
func (w *watch) begin(st *state.State, r *gwv1.WatchRequest) error {
	c := st.Cluster()
	w.cluster, w.epoch, w.access = r.ClusterId, r.Epoch, r.AccessVersion
	w.base = baseOf(st, w.who.Namespace, r.BaseChecksum)
	w.mayLoad = true // an edge that opens a stream hears all, and admission bounds how many do
	if w.cluster != c.ClusterId || w.epoch != c.Epoch {
		if err := w.reset(st); err != nil {
			return err
		}
	}
	return w.tell(st, true)
}

// tell sends what changed since the stream last told: access changes first, since a revocation must not wait; then a
// tick if one is due, the target is another, or a retry is asked for. Another target waits for its place.
func (w *watch) tell(st *state.State, tick bool) error {
	c := st.Cluster()
	if w.epoch != c.Epoch {
		if err := w.reset(st); err != nil {
			return err
		}
	}
	release, _ := st.Target(w.who.Namespace)
	target, retry := shownTarget(release), retryOf(st, w.who.ID)
	same := proto.Equal(target, w.target)
	waits := false
	switch runs := w.server.runs(w.who.ID, target); {
	case same:
	case runs:
		w.server.loading.reported(w.who.ID) // it has heard of it otherwise, and needs no place
	case !w.mayLoad && !w.server.loading.take(w.who.ID):
		w.loading, waits, same = w.server.loading.places, true, true
	}
	tick = tick || !same || retry != w.retry
	// A tick tells the access version, and an edge that was not told all up to it would take the stream for broken.
	if err := w.catchUp(st, tick); err != nil || !tick {
		return err
	}
	if waits {
		target = nil // rather than one that the edge may know to be an old one
	} else {
		w.target, w.mayLoad, w.loading = target, false, nil
	}
	w.retry = retry
	t := &gwv1.Tick{ClusterId: c.ClusterId, Epoch: c.Epoch, AccessVersion: c.AccessVersion, Target: target, Retry: retry}
	if spread := w.server.admission.spread(w.server.fleet.Size()); spread > 0 {
		t.ReconnectSpread = durationpb.New(spread)
	}
	if !same {
		t.Release = w.difference(release)
	}
	return w.send(&gwv1.WatchResponse{Event: &gwv1.WatchResponse_Tick{Tick: t}})
}

// runs reports whether an edge has said that it runs a target.
func (s *EdgeServer) runs(edge string, target *gwv1.Target) bool {
	r, ok := s.fleet.Running(edge)
	return ok && r.Epoch == target.GetEpoch() && r.Release == target.GetNumber()
}

// difference returns what a new target differs in from what the edge holds, if that is known and so little that it
// travels with the tick, which saves a fleet a call per edge and push. Whether the edge gets to hold it is not waited
// for: one that doesn't fetches the next.
func (w *watch) difference(target *state.Release) []*gwv1.FetchReleaseResponse {
	base := w.base
	w.base = target
	if base == nil || target == nil || base == target {
		return nil
	}
	return w.server.transfers.small(w.who.Namespace, base, target)
}

// reset tells the edge to validate again whatever it has cached.
func (w *watch) reset(st *state.State) error {
	c := st.Cluster()
	w.cluster, w.epoch, w.access = c.ClusterId, c.Epoch, c.AccessVersion
	return w.sendAccess(&gwv1.AccessChanges{Reset_: true, AccessVersion: c.AccessVersion})
}

// catchUp sends the access changes the edge hasn't been told. A version that brings it nothing, such as that of a new
// token, waits for the next tick: it need not wake a whole fleet.
func (w *watch) catchUp(st *state.State, tick bool) error {
	now := st.Cluster().AccessVersion
	if w.access == now {
		return nil
	}
	records, ok := st.AccessSince(w.access)
	if !ok {
		return w.reset(st)
	}
	var changes []*gwv1.AccessChange
	for _, r := range records {
		if c := shownChange(st, w.who.Namespace, r); c != nil {
			changes = append(changes, c)
		}
	}
	if len(changes) == 0 && !tick {
		return nil
	}
	w.access = now
	return w.sendChanges(changes, now)
}

// sendChanges sends changes, after which the edge's access version is version, in as many messages as they need.
func (w *watch) sendChanges(changes []*gwv1.AccessChange, version uint64) error {
	for len(changes) > changesPerMessage {
		part := changes[:changesPerMessage]
		changes = changes[changesPerMessage:]
		// Changes of one version may be parted; an edge that has only some of them must not say that it has the version.
		if err := w.sendAccess(&gwv1.AccessChanges{Changes: part, AccessVersion: part[len(part)-1].Version - 1}); err != nil {
			return err
		}
	}
	return w.sendAccess(&gwv1.AccessChanges{Changes: changes, AccessVersion: version})
}

func (w *watch) sendAccess(changes *gwv1.AccessChanges) error {
	return w.send(&gwv1.WatchResponse{Event: &gwv1.WatchResponse_Access{Access: changes}})
}

// shownChange returns an access change as edges of a namespace hear of it; nil if it is none of theirs. What can't be
// told any more, because it was deleted, is told to all: they know it by a hash or an ID, or not at all.
func shownChange(st *state.State, namespace string, r *gwv1.AccessChangeRecord) *gwv1.AccessChange {
	c := &gwv1.AccessChange{Version: r.Version}
	switch x := r.Change.(type) {
	case *gwv1.AccessChangeRecord_RevokedToken:
		if token, ok := st.TokenByHash(x.RevokedToken); ok {
			if app, ok := st.AppByID(token.AppId); ok && !serves(namespace, app.Namespace) {
				return nil
			}
		}
		c.Change = &gwv1.AccessChange_RevokedToken{RevokedToken: x.RevokedToken}
	case *gwv1.AccessChangeRecord_ChangedApp:
		if app, ok := st.AppByID(x.ChangedApp); ok && !serves(namespace, app.Namespace) {
			return nil
		}
		c.Change = &gwv1.AccessChange_ChangedApp{ChangedApp: x.ChangedApp}
	case *gwv1.AccessChangeRecord_DeletedApp:
		c.Change = &gwv1.AccessChange_DeletedApp{DeletedApp: x.DeletedApp}
	case *gwv1.AccessChangeRecord_ChangedSecret:
		if !serves(namespace, x.ChangedSecret.GetNamespace()) {
			return nil
		}
		c.Change = &gwv1.AccessChange_ChangedSecret{ChangedSecret: x.ChangedSecret.GetName()}
	default:
		return nil
	}
	return c
}
