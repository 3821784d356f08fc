package ui

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/ui/page"
)

// edgeID reads the ID of the address. What cannot be one is not found, without asking.
func edgeID(r *http.Request) (string, error) {
	id := r.PathValue("id")
	if id == "" || id != clip(id, 63) {
		return "", errNoPage
	}
	return id, nil
}

func (k *console) edge(w http.ResponseWriter, r *http.Request, v *visitor) error {
	id, err := edgeID(r)
	if err != nil {
		return err
	}
	p, err := k.oneEdge(v.ctx, v, id, k.Now())
	if err != nil {
		return err
	}
	p.Shell = k.shell(v, id, "/edges")
	p.Live = liveURL(r.URL.EscapedPath(), edgePicture(p))
	return send(w, r, http.StatusOK, page.EdgePage(p))
}

// oneEdge takes a view of one edge.
func (k *console) oneEdge(ctx context.Context, v *visitor, id string, now time.Time) (page.Edge, error) {
	got, err := call(k, ctx, k.Fleet.GetEdge, &gwv1.GetEdgeRequest{Id: id})
	if err != nil {
		return page.Edge{}, err
	}
	e := got.GetEdge()
	return page.Edge{
		Shell: page.Shell{CanRemove: v.mayRemove(), CanPush: v.mayPush()}, Row: row(e), Checksums: checksums(e),
		Session: e.GetSessionId(), OtherSession: e.GetConflictingSessionId(),
		Labels: pairs(e.GetLabels()), Metadata: pairs(e.GetMetadata()),
		FirstSeen: when(e.GetFirstSeen()), Started: when(e.GetStartedAt()), CertificateEnds: when(e.GetCertificateNotAfter()),
		AccessVersion: e.GetAccessVersion(), AccessLag: accessLag(e), OtherAddress: e.GetConflictingAddress(),
		RevokedAt: when(e.GetRevokedAt()), RevokedBy: e.GetRevokedBy(), Activity: activity(got.GetActivity()),
		Events: timeline(got.GetEvents()), ListeningSince: when(got.GetListeningSince()), Ephemeral: e.GetEphemeral(), Failure: applyFailure(e.GetApplyError()), Now: now,
	}, nil
}

// accessLag says how far the edge has yet to follow changes of tokens, apps and secrets.
func accessLag(e *gwv1.Edge) string {
	switch {
	case e.GetAccessReset():
		return ", so far behind that it asks anew about every token"
	case e.GetAccessBehind() > 0:
		return ", " + page.Count(e.GetAccessBehind(), "change") + " behind"
	}
	return ""
}

// checksums sets the three of an edge beside one another.
func checksums(e *gwv1.Edge) []page.Checksum {
	loaded := e.GetLoadedChecksum()
	number := func(n uint64) string {
		if n == 0 {
			return ""
		}
		return "release " + strconv.FormatUint(n, 10)
	}
	differs := func(sum string) bool { return loaded != "" && sum != "" && sum != loaded }
	return []page.Checksum{
		{Name: "Loaded", What: "what it serves", Value: loaded, Release: number(e.GetLoadedRelease())},
		{Name: "Released", What: "what was pushed", Value: e.GetReleasedChecksum(), Release: number(e.GetTargetRelease()), Differs: differs(e.GetReleasedChecksum())},
		{Name: "Expected", What: "what is saved", Value: e.GetExpectedChecksum(), Differs: differs(e.GetExpectedChecksum())},
	}
}

func applyFailure(f *gwv1.ApplyError) *page.ApplyFailure {
	if f == nil {
		return nil
	}
	culprit := f.GetKind()
	if f.GetName() != "" {
		culprit += "/" + f.GetName()
	}
	return &page.ApplyFailure{
		Release: f.GetRelease(), Culprit: strings.TrimSpace(culprit + " " + f.GetField()), Code: f.GetCode(), Message: f.GetMessage(),
		At: when(f.GetAt()), Final: slices.Contains([]string{"compile", "too_old", "probe"}, f.GetCode()),
	}
}

// pairs sorts a map by key.
func pairs(m map[string]string) []page.Pair {
	out := make([]page.Pair, 0, len(m))
	for key, value := range m {
		out = append(out, page.Pair{Key: key, Value: value})
	}
	slices.SortFunc(out, func(a, b page.Pair) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// removal is the question whether to remove an edge, as things are now.
func (k *console) removal(r *http.Request, v *visitor) (page.Removal, error) {
	id, err := edgeID(r)
	if err != nil {
		return page.Removal{}, err
	}
	if !v.mayRemove() {
		return page.Removal{}, connect.NewError(connect.CodePermissionDenied, errors.New("removing edges is for admins"))
	}
	got, err := call(k, v.ctx, k.Fleet.GetEdge, &gwv1.GetEdgeRequest{Id: id})
	if err != nil {
		return page.Removal{}, err
	}
	return page.Removal{
		Shell: k.shell(v, "Remove edge", "/edges"), ID: id, Namespace: got.GetEdge().GetNamespace(),
		Connected: got.GetEdge().GetConnection() != gwv1.Connection_CONNECTION_DISCONNECTED,
	}, nil
}

func (k *console) removeForm(w http.ResponseWriter, r *http.Request, v *visitor) error {
	p, err := k.removal(r, v)
	if err != nil {
		return err
	}
	if partial(r) {
		return send(w, r, http.StatusOK, page.RemoveDialog(p))
	}
	return send(w, r, http.StatusOK, page.RemovePage(p))
}

// remove removes an edge. One that is connected wants its ID typed, also by those who come without the form.
func (k *console) remove(w http.ResponseWriter, r *http.Request, v *visitor) error {
	if err := r.ParseForm(); err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	p, err := k.removal(r, v)
	if err != nil {
		return err
	}
	if p.Connected && strings.TrimSpace(r.PostFormValue("confirm")) != p.ID {
		p.Problem = "What was typed is not the edge's ID. Nothing was removed."
		return send(w, r, http.StatusUnprocessableEntity, page.RemovePage(p))
	}
	if _, err := call(k, v.ctx, k.Fleet.RemoveEdge, &gwv1.RemoveEdgeRequest{Id: p.ID}); err != nil {
		return err
	}
	http.Redirect(w, r, "/edges?"+url.Values{"removed": {p.ID}}.Encode(), http.StatusSeeOther)
	return nil
}
