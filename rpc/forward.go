package rpc

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/identity"
)

const (
	// holdTime is how long a call waits for the cluster to have a leader: callers have an answer within 5 s.
	holdTime = 4800 * time.Millisecond
	// connectTime is how long a hub takes to get a connection to another before it counts as not reached.
	connectTime = time.Second
	// catchUpTime is how long an answer waits for this hub to have applied what it is about.
	catchUpTime = 5 * time.Second
	// maxAnswer is how large an answer of the leader may be that is taken whole before it is given on.
	maxAnswer = 16 << 20
)

// relay is the way of a call through the hubs: it is served here if this hub leads, or else passed on to the one that
// does.
type relay struct {
	*core
	proxy  *httputil.ReverseProxy
	writer *connect.ErrorWriter
}

func newRelay(k *core) *relay {
	y := &relay{core: k, writer: connect.NewErrorWriter()}
	y.proxy = &httputil.ReverseProxy{
		Rewrite:        y.rewrite,
		Transport:      k.peerTransport,
		FlushInterval:  -1,
		ModifyResponse: y.arrived,
		ErrorHandler:   y.failed,
		ErrorLog:       slog.NewLogLogger(k.log.Handler(), slog.LevelDebug),
	}
	return y
}

// outcome is how a try to have a call served ended.
type outcome string

const (
	answered  outcome = "answered"
	untouched outcome = "again"   // nothing was done: it is safe to try again
	unknown   outcome = "unknown" // it may have been done
)

// serve has a call served, and tries again while that does no harm: nothing was done, nothing is ever done by such calls,
// or a key makes sure that it is done once. next serves it here, for the caller of r's context; f is for whom it is passed on.
func (y *relay) serve(w http.ResponseWriter, r *http.Request, p procedure, next http.Handler, f forwarded) {
	body := &replay{rest: bodyOf(r)}
	if p.path() == gwv1connect.ClusterServiceGetClusterStatusProcedure {
		y.serveStatus(w, r, p, body, next, f)
		return
	}
	if stale(r.Context()) || p.path() == gwv1connect.ClusterServiceBackupProcedure {
		// These may not need the leader; if they do, they say so.
		if y.here(w, r, p, body, next) == answered {
			return
		}
		w.Header().Del(headerAge)
	}
	patience, cancel := context.WithTimeout(r.Context(), holdTime)
	defer cancel()
	repeatable := p.readOnly || r.Header.Get("Idempotency-Key") != ""
	begun := false // it may have been done
	for {
		address, err := y.leader(patience)
		switch {
		case err != nil && begun && !p.readOnly:
			y.refuse(w, r, errUnknownOutcome(err))
			return
		case err != nil:
			y.refuse(w, r, &Error{Reason: ReasonNotProposed, Message: err.Error() + ", and nothing was changed: try again"})
			return
		}
		end := untouched
		switch {
		case body.lost:
			err = errors.New("the request is too large to be sent twice")
		case address == "":
			until, _ := patience.Deadline()
			end = y.here(w, r.WithContext(withPatience(r.Context(), until)), p, body, next)
			if end == unknown {
				err = errUnsure
			}
		default:
			end, err = y.there(w, r, patience, p, body, f, address)
		}
		begun = begun || end == unknown
		switch {
		case end == answered:
			return
		case begun && !p.readOnly && (!repeatable || body.lost):
			y.refuse(w, r, errUnknownOutcome(err))
			return
		case body.lost:
			y.refuse(w, r, &Error{Reason: ReasonNotProposed, Message: fmt.Sprintf("the leader was not reached, and nothing was changed: try again (%v)", err)})
			return
		}
		pauseAbout(patience, 50*time.Millisecond)
	}
}

func errUnknownOutcome(why error) error {
	return &Error{Reason: ReasonUnknownOutcome, Message: fmt.Sprintf(
		"the leader was lost while it worked on this, which may have been done: repeat it with the same Idempotency-Key (%v)", why)}
}

// serveStatus answers even if there is no leader: that is when it is asked for most.
func (y *relay) serveStatus(w http.ResponseWriter, r *http.Request, p procedure, body *replay, next http.Handler, f forwarded) {
	if address, here := y.leaderNow(); !here && address != "" && !stale(r.Context()) {
		patience, cancel := context.WithTimeout(r.Context(), holdTime)
		defer cancel()
		if end, _ := y.there(w, r, patience, p, body, f, address); end == answered {
			return
		}
	}
	r.Body = body.begin()
	if r.Body == nil {
		y.refuse(w, r, &Error{Reason: ReasonTooLarge, Message: "the request is too large"})
		return
	}
	next.ServeHTTP(w, r)
}

func bodyOf(r *http.Request) io.Reader {
	if r.Body == nil {
		return http.NoBody
	}
	return r.Body
}

// leaderNow returns the address of the hub that leads, "" if none is known; here is true if it is this one.
func (k *core) leaderNow() (address string, here bool) {
	id, address := k.store.Leader()
	switch {
	case k.store.Leading(), id != "" && id == k.store.NodeID(): // the latter waits for its term to open
		return "", true
	case id == "":
		return "", false
	}
	return address, false
}

// leader waits until it is known who leads; "" is this hub. The error is a sentence that says why it is in vain.
func (y *relay) leader(ctx context.Context) (address string, err error) {
	for {
		if err := y.fault(); err != nil {
			return "", fmt.Errorf("this hub has stopped serving (%w): ask another one", err)
		}
		address, here := y.leaderNow()
		if ctx.Err() != nil {
			return "", errNoLeader
		}
		if here || address != "" {
			return address, nil
		}
		pauseAbout(ctx, 50*time.Millisecond)
	}
}

var errNoLeader = errors.New("no hub leads now")

// pauseAbout waits for half to one and a half of d, or until ctx ends.
func pauseAbout(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// mayRepeat reports whether a call that may have been done can be made again: a key makes sure that it is done once.
func mayRepeat(r *http.Request, p procedure) bool {
	return p.unary() && r.Header.Get("Idempotency-Key") != ""
}

// here lets this hub try.
func (y *relay) here(w http.ResponseWriter, r *http.Request, p procedure, body *replay, next http.Handler) outcome {
	local := r.WithContext(r.Context())
	local.Header = r.Header.Clone() // handlers change it
	local.Body = body.begin()
	a := newAttempt(w, y.store, true)
	if mayRepeat(r, p) {
		a.repeatable = func() bool { return !body.lost }
	}
	return a.serve(next, local)
}

// passage is a call on its way to another hub.
type passage struct {
	procedure procedure
	address   string
	principal string      // as headerPrincipal has it
	whole     bool        // its body can be sent again
	sent      atomic.Bool // there was a connection to send it on
	end       outcome
	err       error
}

type passageKey struct{}

var (
	errElsewhere  = errors.New("the hub does not lead any more")
	errBroken     = errors.New("the answer broke off")
	errUnsure     = errors.New("the hub stopped leading while it worked on it")
	errNotReached = errors.New("no connection in time")
	errSucceeded  = errors.New("another hub leads now, and the former leader does not answer")
)

// there passes a call on, and its answer back. The error is why it was not answered. Once patience has ended, a call that
// answers once is given up if nobody is known to lead.
func (y *relay) there(w http.ResponseWriter, r *http.Request, patience context.Context, p procedure, body *replay, f forwarded, address string) (outcome, error) {
	principal, err := f.encode()
	if err != nil {
		y.refuse(w, r, &Error{Reason: ReasonInvalid, Message: err.Error()})
		return answered, nil
	}
	if y.peerTransport == nil {
		return untouched, errors.New("this hub reaches no other")
	}
	c := &passage{procedure: p, address: address, principal: principal, end: answered}
	waiting, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	late := time.AfterFunc(connectTime, func() { cancel(errNotReached) })
	defer late.Stop()
	var watch sync.WaitGroup
	watch.Go(func() { y.watchLeader(waiting, patience, p, address, cancel) })
	defer func() {
		cancel(nil)
		watch.Wait()
	}()
	ctx := httptrace.WithClientTrace(waiting, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		late.Stop()
		c.sent.Store(true)
	}})
	// Without a server in its context the proxy doesn't panic when an answer breaks off, which calls in-process would not
	// survive. Callers notice by themselves: a stream of any protocol has an end, and other answers are passed on whole.
	ctx = context.WithValue(ctx, http.ServerContextKey, nil)
	out := r.WithContext(context.WithValue(ctx, passageKey{}, c))
	// An answer may begin before the request has ended; over HTTP/1 that has to be allowed for.
	_ = http.NewResponseController(w).EnableFullDuplex()
	if p.clientStream {
		out.Body = body.once()
	} else {
		if c.whole, err = body.fetch(); err != nil {
			return answered, nil // the caller is gone
		}
		c.setBody(out, body)
	}
	y.proxy.ServeHTTP(w, out)
	y.metrics.forwarded(p, c.end)
	return c.end, cmp.Or(context.Cause(ctx), c.err)
}

// leaderLook is how often a hub that waits for an answer looks whether the leader it waits for still is.
const leaderLook = 300 * time.Millisecond

// watchLeader cancels a call when another hub than that at address has been seen to lead twice in a row: one that gave
// leadership away has answered by then, and one that stands still or is cut off never will; or when patience has ended
// and nobody leads. It returns when ctx ends.
func (y *relay) watchLeader(ctx, patience context.Context, p procedure, address string, cancel context.CancelCauseFunc) {
	succeeded, nobody := 0, 0
	for pauseAbout(ctx, leaderLook) == nil {
		switch now, here := y.leaderNow(); {
		case here || now != "" && now != address:
			succeeded, nobody = succeeded+1, 0
		case now == "" && p.unary() && patience.Err() != nil:
			succeeded, nobody = 0, nobody+1
		default:
			succeeded, nobody = 0, 0
		}
		switch {
		case succeeded == 2:
			cancel(errSucceeded)
			return
		case nobody == 2:
			cancel(errNoLeader)
			return
		}
	}
}

func (c *passage) setBody(out *http.Request, body *replay) {
	if !c.whole {
		out.Body = body.once()
		return
	}
	kept := body.kept
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(kept)), nil }
	out.Body, _ = open()
	out.GetBody, out.ContentLength = open, int64(len(kept))
}

func (y *relay) rewrite(p *httputil.ProxyRequest) {
	c := p.In.Context().Value(passageKey{}).(*passage)
	p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "https", c.address, c.address
	p.Out.Header.Del("Authorization") // its hash is enough
	p.Out.Header.Set(headerForwarded, "1")
	p.Out.Header.Set(headerPrincipal, c.principal)
}

// arrived takes in the head of an answer, and all of it if it is no stream. An error means another try.
func (y *relay) arrived(a *http.Response) error {
	c := a.Request.Context().Value(passageKey{}).(*passage)
	if a.Header.Get(headerOutcome) != "" && c.whole {
		io.Copy(io.Discard, io.LimitReader(a.Body, maxReplay)) // so that the connection can be used again
		return errElsewhere
	}
	if a.Header.Get(headerUnsure) != "" && c.whole && mayRepeat(a.Request, c.procedure) {
		io.Copy(io.Discard, io.LimitReader(a.Body, maxReplay))
		return errUnsure
	}
	a.Header.Del(headerOutcome)
	a.Header.Del(headerUnsure)
	if c.procedure.unary() {
		b, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer))
		if err != nil {
			return fmt.Errorf("%w: %w", errBroken, err)
		}
		a.Body = prefixed{io.MultiReader(bytes.NewReader(b), a.Body), a.Body}
	}
	if index, err := strconv.ParseUint(a.Header.Get(headerIndex), 10, 64); err == nil {
		y.catchUp(a.Request.Context(), index)
	}
	return nil
}

// prefixed is a body of which the beginning has been read.
type prefixed struct {
	io.Reader
	io.Closer
}

// catchUp waits until this hub has applied what an answer is about, so that who wrote through it reads it here.
func (y *relay) catchUp(ctx context.Context, index uint64) {
	ctx, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	if index == 0 || y.store.State().Index() >= index {
		return
	}
	if _, err := y.store.Wait(ctx, index-1); err != nil {
		y.log.WarnContext(ctx, "this hub has not applied yet what it passes an answer on about", "index", index, "error", err)
	}
}

// failed notes why a call was not answered; it answers nothing.
func (y *relay) failed(_ http.ResponseWriter, r *http.Request, err error) {
	c := r.Context().Value(passageKey{}).(*passage)
	c.err, c.end = err, untouched
	// A transport that dials again has made sure that what it had a connection for before was not taken; but it takes a
	// key for leave to repeat what may have been.
	var dial *net.OpError
	dialled := errors.As(err, &dial) && dial.Op == "dial" && r.Header.Get("Idempotency-Key") == ""
	if c.sent.Load() && !dialled && !errors.Is(err, errElsewhere) {
		c.end = unknown
	}
}

// refuse answers a call that is not served, in the caller's protocol.
func (y *relay) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e := errorOf(r.Context(), y.log, err)
	if y.writer.IsSupported(r) {
		y.writer.Write(w, r, e)
		return
	}
	http.Error(w, e.Message(), httpStatus(e.Code()))
}

// httpStatus is for callers that speak none of the protocols.
func httpStatus(c connect.Code) int {
	switch c {
	case connect.CodePermissionDenied:
		return http.StatusForbidden
	case connect.CodeUnauthenticated:
		return http.StatusUnauthorized
	case connect.CodeInvalidArgument:
		return http.StatusBadRequest
	}
	return http.StatusServiceUnavailable
}

// admin wraps the admin services: any hub serves.
func (y *relay) admin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = stripped(r)
		p, ok := y.procedures[r.URL.Path]
		if !ok || p.service == edgeService || p.service == hubService {
			next.ServeHTTP(w, r) // reflection, or nothing there is
			return
		}
		switch wish := r.Header.Get(headerConsistency); {
		case wish == "stale" && (p.readOnly && p.unary() || p.path() == gwv1connect.ClusterServiceBackupProcedure):
			r = r.WithContext(context.WithValue(r.Context(), staleKey{}, true))
			w.Header().Set(headerAge, ageOf(y.store.LeaderContact()))
		case wish != "" && wish != "linearizable":
			y.refuse(w, r, invalid(headerConsistency, ReasonInvalid, `want "linearizable", or for calls that answer once and change nothing "stale"`))
			return
		}
		y.serve(w, r, p, next, principalOf(r))
	})
}

// principalOf returns for whom a call at the admin's address is passed on.
func principalOf(r *http.Request) forwarded {
	f := forwarded{address: host(r.RemoteAddr)}
	if p, ok := PrincipalOf(r.Context()); ok {
		f.user, f.role, f.namespaces, f.address = p.User, p.Role, p.Namespaces, cmp.Or(p.Address, f.address)
		return f
	}
	if bearer := bearerOf(r.Header); identity.CheckCredential(identity.BearerPrefix, bearer) {
		hash := identity.HashCredential(bearer)
		f.session = hash[:]
	}
	return f
}

// stripped returns a request without what only hubs may say.
func stripped(r *http.Request) *http.Request {
	clean := r.WithContext(r.Context())
	clean.Header = r.Header.Clone()
	for _, name := range []string{headerForwarded, headerPrincipal, headerOutcome, headerUnsure, headerIndex} {
		clean.Header.Del(name)
	}
	return clean
}

type staleKey struct{}

// stale reports whether the caller is content with what this hub has.
func stale(ctx context.Context) bool { return ctx.Value(staleKey{}) != nil }

// ageOf is in seconds; a hub that never heard a leader says "unknown".
func ageOf(d time.Duration) string {
	if d < 0 {
		return "unknown"
	}
	return strconv.FormatFloat(d.Seconds(), 'f', 3, 64)
}
