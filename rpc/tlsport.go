package rpc

import (
	"context"
	"crypto/x509"
	"net/http"
	"sync"
	"time"

	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/identity"
)

// portHandler serves what comes to the TLS port: edges, hubs, and the calls that hubs pass on.
func portHandler(h *Hub) http.Handler {
	k := h.core
	port := &port{relay: newRelay(k), admin: adminMux(h), edges: edgeMux(h), hubs: hubMux(h)}
	return port
}

type port struct {
	*relay
	admin, edges, hubs http.Handler
}

// ServeHTTP implements http.Handler.
func (t *port) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p, ok := t.procedures[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	hub, standing := t.callerOf(r)
	if standing == stranger && p.service == edgeService {
		t.serveEdge(w, stripped(r), &p)
		return
	}
	t.serveOthers(w, r, p, hub, standing)
}

// callerOf returns which hub calls and what it is to this cluster; "" and stranger if none does.
func (t *port) callerOf(r *http.Request) (string, standing) {
	hub := t.hubOf(r)
	if hub == "" {
		return "", stranger
	}
	return hub, t.standingOf(hub)
}

// serveOthers serves what is not an edge's call for itself.
func (t *port) serveOthers(w http.ResponseWriter, r *http.Request, p procedure, hub string, standing standing) {
	passedOn, principal := r.Header.Get(headerForwarded) == "1", r.Header.Get(headerPrincipal)
	r = stripped(r)
	switch {
	case standing == removed:
		t.refuse(w, r, errRemoved(hub))
	case passedOn && standing == member:
		t.takeOver(w, r, p, principal)
	case p.service == edgeService:
		t.serveEdge(w, r, &p)
	case p.service == hubService:
		t.serveHub(w, r, p, hub)
	default:
		t.refuse(w, r, &Error{Reason: ReasonForbidden, Message: "admin calls are not taken at this port, but at a hub's admin address"})
	}
}

// takeOver serves a call that another hub has passed on. It is never passed on again.
func (t *port) takeOver(w http.ResponseWriter, r *http.Request, p procedure, principal string) {
	f, err := decodeForwarded(principal)
	if err != nil {
		t.refuse(w, r, invalid(headerPrincipal, ReasonInvalid, "%v", err))
		return
	}
	// The hub that passes it on has waited too, and tries again for as long as it has patience.
	ctx := withPatience(withForwarded(r.Context(), f), time.Now().Add(holdTime/2))
	next := t.admin
	switch p.service {
	case edgeService:
		next = t.edges
		if f.edge != nil {
			ctx = context.WithValue(ctx, callerKey{}, *f.edge)
		}
	case hubService:
		next = t.hubs
		if f.hub != "" {
			ctx = withHub(ctx, f.hub)
		}
	}
	newAttempt(w, t.store, false).serve(next, r.WithContext(ctx))
}

// serveEdge serves an edge here if this hub leads; else it tells where the leader is, or passes the call on if that is
// what the edge asks for. A thousand edges' streams stand in it: what they don't need is kept off its stack.
func (t *port) serveEdge(w http.ResponseWriter, r *http.Request, p *procedure) {
	if r = t.withCaller(r); t.servedElsewhere(w, r, p) {
		return
	}
	t.edges.ServeHTTP(w, r)
}

// servedElsewhere answers an edge's call that this hub doesn't serve itself, and reports whether it was one.
func (t *port) servedElsewhere(w http.ResponseWriter, r *http.Request, p *procedure) bool {
	if r.Header.Get(headerProxy) == "allow" {
		f := forwarded{address: r.RemoteAddr}
		if c, ok := r.Context().Value(callerKey{}).(caller); ok {
			f.edge = &c
		}
		t.serve(w, r, *p, t.edges, f)
		return true
	}
	leader := t.leaderNow
	if p.path() == gwv1connect.EdgeServiceWatchProcedure {
		// Told at once that there is no leader, every edge would ask again and again while hubs elect one; and sent to one
		// that is silent, it would most likely find nobody there.
		leader = func() (string, bool) { return t.awaitLeader(r.Context()) }
	}
	address, here := leader()
	if !here && p.path() == gwv1connect.EdgeServiceFetchReleaseProcedure && r.Header.Get(headerConsistency) == "stale" {
		t.edges.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), staleKey{}, true)))
		return true
	}
	if !here {
		t.refuse(w, r, t.notLeader(address))
	}
	return !here
}

// awaitLeader is leaderNow for an edge that has time: it waits until somebody leads and is heard, for up to holdTime.
func (t *port) awaitLeader(ctx context.Context) (address string, here bool) {
	ctx, cancel := context.WithTimeout(ctx, holdTime)
	defer cancel()
	for {
		address, here = t.leaderNow()
		if here || address != "" && t.store.LeaderHeard() || pauseAbout(ctx, edgeLook) != nil {
			return address, here
		}
	}
}

// edgeLook is how often it is looked for a leader for an edge that waits for one.
const edgeLook = 200 * time.Millisecond

// serveHub serves another hub, or one that wants to become one.
func (t *port) serveHub(w http.ResponseWriter, r *http.Request, p procedure, hub string) {
	ctx := WithAddress(r.Context(), r.RemoteAddr)
	if hub != "" {
		ctx = withHub(ctx, hub)
	}
	r = r.WithContext(ctx)
	switch p.path() {
	case gwv1connect.HubServiceJoinProcedure, gwv1connect.HubServiceAddHubProcedure:
		t.serve(w, r, p, t.hubs, forwarded{address: host(r.RemoteAddr), hub: hub})
	default: // a hub speaks for itself
		t.hubs.ServeHTTP(w, r)
	}
}

// notLeader is the answer to an edge that should go elsewhere; an address of "" is not known. A fleet that the leader
// can't let in at once is told to spread.
func (k *core) notLeader(address string) error {
	if address == "" {
		return &Error{Reason: ReasonNotLeader, Message: "this hub does not lead, and it does not know who does"}
	}
	return &Error{Reason: ReasonNotLeader, LeaderURL: "https://" + address, RetryJitter: k.reconnectSpread(),
		Message: "this hub does not lead: https://" + address + " does"}
}

// reconnectSpread is over what time all edges have to come back for a leader to let them in.
func (k *core) reconnectSpread() time.Duration { return k.admission.spread(k.registered.of(k)) }

// registered is how many edges the registry has, as of a while ago: counting takes long where edges are many.
type registered struct {
	mu sync.Mutex // guards what follows
	n  int
	at time.Time
}

const countEvery = 5 * time.Second

func (r *registered) of(k *core) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := k.now(); r.at.IsZero() || now.Sub(r.at) >= countEvery {
		r.n, r.at = 0, now
		for range k.store.State().Edges() {
			r.n++
		}
	}
	return r.n
}

// certificateOf returns the certificate of an edge or a hub at the other end, nil if there is none that this cluster
// issued. The handshake has looked at the time: an edge's may have ended.
func (k *core) certificateOf(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	root := k.root
	if root == nil {
		ca, err := k.clusterCA()
		if err != nil {
			return nil
		}
		root = ca.Certificate
	}
	if !k.issued.by(root, r.TLS.PeerCertificates[0]) {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

// hubOf returns the hub of this cluster at the other end of a connection, or "".
func (k *core) hubOf(r *http.Request) string {
	certificate := k.certificateOf(r)
	if certificate == nil {
		return ""
	}
	cluster, id, err := identity.HubOf(certificate)
	if err != nil {
		return ""
	}
	// A hub that was just started may have no state yet; that its CA issued the certificate is known all the same.
	if own := k.store.State().Cluster().GetClusterId(); own != "" && own != cluster {
		return ""
	}
	return id
}

// standing is what a hub is to this cluster.
type standing int

const (
	stranger standing = iota // has a certificate and never became a member, or this hub doesn't know of it yet
	member
	removed
)

func (k *core) standingOf(hub string) standing {
	if h, ok := k.store.State().Hub(hub); ok {
		if h.Removed {
			return removed
		}
		return member
	}
	members, err := k.store.Members()
	if err != nil {
		return stranger
	}
	for _, m := range members {
		if m.ID == hub {
			return member // its record is yet to be written
		}
	}
	return stranger
}

func errRemoved(hub string) error {
	return &Error{Reason: ReasonRemoved, Message: "hub " + hub + " was removed from the cluster: stop it; it can join again with an empty data directory"}
}

type hubKey struct{}

// withHub returns the context of a call that a hub makes.
func withHub(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, hubKey{}, id)
}

func hubFrom(ctx context.Context) (id string, ok bool) {
	id, ok = ctx.Value(hubKey{}).(string)
	return id, ok
}

// withCaller puts the edge at the other end into the request's context, if the connection has a certificate of one that
// the cluster issued; and the address it comes from.
func (k *core) withCaller(r *http.Request) *http.Request {
	ctx := WithAddress(r.Context(), r.RemoteAddr)
	if certificate := k.certificateOf(r); certificate != nil {
		if who, err := identity.EdgeOf(certificate); err == nil { // a hub's names none
			ctx = context.WithValue(ctx, callerKey{}, caller{
				Edge: who, serial: certificate.SerialNumber.Text(16), lineage: identity.LineageOf(certificate),
				notAfter: certificate.NotAfter, address: r.RemoteAddr,
			})
		}
	}
	return r.WithContext(ctx)
}
