package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
)

// share is a percentage from 1 to 100; 0 stands for none given.
type share uint32

// UnmarshalText reads "100%" or "100".
func (s *share) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(strings.TrimSuffix(string(text), "%"), 10, 32)
	if err != nil || n < 1 || n > 100 {
		return fmt.Errorf("%q is not a share of the edges; expected 1%% to 100%%", text)
	}
	*s = share(n)
	return nil
}

// of returns how many of n edges make the share.
func (s share) of(n int) int { return (n*int(s) + 99) / 100 }

// pollEvery is how often a wait looks again where no stream tells it.
const pollEvery = 500 * time.Millisecond

// wait follows a push until its edges have loaded it.
type wait struct {
	c       *Context
	hub     *hub
	share   share
	timeout time.Duration
	// number is the push; 0: nothing was pushed, and the current releases are waited for.
	number uint64
	// namespaces are those waited for, and the release of each. With number 0 they are those of the scope.
	namespaces map[string]uint64 // namespace → release

	// failed are those that will not try it again.
	edges, loaded, failed, offline int
	superseded                     bool
	missing                        []*gwv1.Edge
	started, shown                 time.Time // shown: when a log was last told
	took                           time.Duration
}

func newWait(c *Context, h *hub, p *PushOptions, preview *gwv1.PreviewPushResponse, pushed *gwv1.PushResponse) *wait {
	w := &wait{c: c, hub: h, share: p.Wait, timeout: p.Timeout, number: pushed.GetNumber(), namespaces: map[string]uint64{}}
	for _, n := range preview.GetNamespaces() {
		if w.number == 0 {
			w.namespaces[n.GetNamespace()] = n.GetRelease()
		}
	}
	for _, n := range pushed.GetNamespaces() {
		if n.GetReleased() {
			w.namespaces[n.GetNamespace()] = n.GetRelease()
		}
	}
	return w
}

// errTimedOut ends a wait's context.
var errTimedOut = errors.New("timed out")

// run returns nil when the share is reached, an ExitError with ExitWaited if it won't be or the time is over, and other
// errors if nobody can tell.
func (w *wait) run(ctx context.Context) error {
	w.started = w.c.now()
	w.shown = w.started
	defer func() { w.took = w.c.now().Sub(w.started) }()
	ctx, cancel := context.WithTimeoutCause(ctx, w.timeout, errTimedOut)
	defer cancel()
	why, err := w.follow(ctx)
	if w.c.isTerminal(w.c.Stderr) {
		fmt.Fprint(w.c.Stderr, "\r\x1b[K")
	}
	if errors.Is(err, errTimedOut) {
		why, err = fmt.Sprintf("waited %s in vain", w.timeout), nil
		// The time is over, the question who is missing isn't.
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if w.number == 0 || w.edges == 0 {
			w.look(late)
		}
		w.findMissing(late)
	}
	if err != nil || why == "" {
		return err
	}
	return &ExitError{ExitWaited, errors.New(w.failure(why))}
}

// follow returns "" when the share is reached, or why it won't be.
func (w *wait) follow(ctx context.Context) (why string, err error) {
	for {
		var again bool
		if w.number == 0 {
			why, again, err = w.step(ctx, w.look(ctx))
		} else {
			why, again, err = w.stream(ctx)
		}
		if !again {
			return why, err
		}
		timer := time.NewTimer(pollEvery)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return "", context.Cause(ctx)
		}
	}
}

// stream follows WatchPush until the share is reached or can't be. It is asked again after the hub went away, and after
// it ended because only edges that are offline are missing: they get the release when they return.
func (w *wait) stream(ctx context.Context) (why string, again bool, err error) {
	stream, err := w.hub.releases.WatchPush(ctx, &gwv1.WatchPushRequest{Number: w.number})
	if err != nil {
		return w.broken(ctx, err)
	}
	defer stream.Close()
	for stream.Receive() {
		m := stream.Msg()
		w.edges, w.loaded, w.failed, w.offline, w.superseded = int(m.GetEdges()), int(m.GetLoaded()), int(m.GetFailed()), int(m.GetOffline()), m.GetSuperseded()
		if why, again, err = w.step(ctx, nil); !again {
			return why, false, err
		}
	}
	if err := stream.Err(); err != nil {
		return w.broken(ctx, err)
	}
	return "", true, nil
}

// broken tells a hub that went away, which may come back, from one that refuses.
func (w *wait) broken(ctx context.Context, err error) (why string, again bool, _ error) {
	if ctx.Err() != nil {
		return "", false, context.Cause(ctx)
	}
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeUnknown, connect.CodeInternal, connect.CodeAborted:
		return "", true, nil
	}
	return "", false, &hubError{w.hub.url.String(), err}
}

// step shows where the push is and decides whether to go on.
func (w *wait) step(ctx context.Context, err error) (why string, again bool, _ error) {
	if err != nil {
		return w.broken(ctx, err)
	}
	w.show()
	switch {
	case w.loaded >= w.share.of(w.edges):
		return "", false, nil
	case w.edges-w.failed < w.share.of(w.edges):
		w.findMissing(ctx)
		return counted(w.failed, "edge") + " can't load it", false, nil
	}
	return "", true, nil
}

// show draws how far it is: a bar on a terminal, and elsewhere a line now and then, for logs.
func (w *wait) show() {
	now := w.c.now()
	counts := fmt.Sprintf("%d of %d edges have loaded it, %d on their way, %d failed, %d offline, after %s",
		w.loaded, w.edges, max(0, w.edges-w.loaded-w.failed-w.offline), w.failed, w.offline, now.Sub(w.started).Round(100*time.Millisecond))
	switch {
	case w.c.isTerminal(w.c.Stderr):
		fmt.Fprintf(w.c.Stderr, "\r\x1b[K%s %s", bar(w.loaded, w.edges), counts)
	case now.Sub(w.shown) >= showEvery:
		w.c.say("%s", counts)
		w.shown = now
	}
}

const (
	barWidth  = 24
	showEvery = 5 * time.Second
)

// bar draws a share of n as a bar. It is full only when all of it is done.
func bar(done, n int) string {
	full := barWidth
	if n > 0 {
		full = min(done, n) * barWidth / n
	}
	return strings.Repeat("█", full) + strings.Repeat("░", barWidth-full)
}

// findMissing asks who has not loaded it. If that can't be told, the names are left as they are: the counts stand.
func (w *wait) findMissing(ctx context.Context) {
	edges, err := w.hub.listEdges(ctx, &gwv1.ListEdgesRequest{})
	if err != nil {
		return
	}
	w.missing = slices.DeleteFunc(edges, func(e *gwv1.Edge) bool {
		release, ours := w.namespaces[e.GetNamespace()]
		return !ours || e.GetLoadedRelease() >= release && (w.number > 0 || e.GetLoadedChecksum() == e.GetReleasedChecksum())
	})
}

// look counts by the list of edges, where no push can be watched.
func (w *wait) look(ctx context.Context) error {
	edges, err := w.hub.listEdges(ctx, &gwv1.ListEdgesRequest{})
	if err != nil {
		return err
	}
	w.edges, w.loaded, w.failed, w.offline, w.missing = 0, 0, 0, 0, nil
	for _, e := range edges {
		if _, ours := w.namespaces[e.GetNamespace()]; !ours {
			continue
		}
		w.edges++
		switch {
		case e.GetLoadedChecksum() == e.GetReleasedChecksum():
			w.loaded++
			continue
		case slices.Contains([]string{"compile", "too_old", "probe"}, e.GetApplyError().GetCode()) && e.GetApplyError().GetRelease() >= e.GetTargetRelease():
			w.failed++
		case e.GetConnection() == gwv1.Connection_CONNECTION_DISCONNECTED:
			w.offline++
		}
		w.missing = append(w.missing, e)
	}
	return nil
}

func (w *wait) success() string {
	if w.edges == 0 {
		return "No edge is registered there, so there was none to wait for."
	}
	return fmt.Sprintf("%d of %d edges have loaded it, after %s.", w.loaded, w.edges, w.took.Round(time.Millisecond))
}

// maxNamed is how many missing edges people are shown.
const maxNamed = 10

func (w *wait) failure(why string) string {
	if w.superseded {
		why += ", and a later push has taken its place"
	}
	text := fmt.Sprintf("%s: %d of %d edges have loaded it, %d were wanted", why, w.loaded, w.edges, w.share.of(w.edges))
	for i, e := range w.missing {
		if i == maxNamed {
			return text + fmt.Sprintf("\n  and %d more; see: gw edges", len(w.missing)-i)
		}
		text += "\n  " + e.GetId() + " (" + e.GetNamespace() + "): " + whyMissing(e)
	}
	return text
}

func whyMissing(e *gwv1.Edge) string {
	if a := e.GetApplyError(); a != nil {
		return applyError(a)
	}
	if e.GetConnection() != gwv1.Connection_CONNECTION_CONNECTED {
		return strings.TrimSuffix(word(e.GetConnection())+", "+e.GetConnectionReason(), ", ")
	}
	return strings.TrimSuffix(fmt.Sprintf("has release %d, %s", e.GetLoadedRelease(), e.GetSyncReason()), ", ")
}

// result is what programs are told.
func (w *wait) result() object {
	missing := make([]any, len(w.missing))
	for i, e := range w.missing {
		missing[i] = object{{"edge", e.GetId()}, {"namespace", e.GetNamespace()}, {"why", whyMissing(e)}}
	}
	number := func(n int) plain { return json.Number(strconv.Itoa(n)) }
	return object{{"reached", w.loaded >= w.share.of(w.edges)}, {"edges", number(w.edges)}, {"loaded", number(w.loaded)},
		{"failed", number(w.failed)}, {"offline", number(w.offline)}, {"superseded", w.superseded}, {"missing", missing}}
}
