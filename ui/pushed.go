package ui

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"gw/rpc/gwv1"
	"gw/ui/page"
)

// pushed shows how far a push has come.
func (k *console) pushed(w http.ResponseWriter, r *http.Request, v *visitor) error {
	number, err := pushNumber(r.PathValue("number"))
	if err != nil {
		return err
	}
	p, err := k.progress(v.ctx, v, number, k.Now())
	if err != nil {
		return err
	}
	p.Shell = k.shell(v, p.Title(), "/releases")
	p.Live = liveURL(r.URL.EscapedPath(), progressPicture(p))
	return send(w, r, http.StatusOK, page.ProgressPage(p))
}

func pushNumber(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 {
		return 0, errNoPage
	}
	return n, nil
}

// progress takes a view of a push. What the visitor may do is part of it, because the stream renders it again.
func (k *console) progress(ctx context.Context, v *visitor, number uint64, now time.Time) (page.Progress, error) {
	got, err := call(k, ctx, k.Releases.GetPush, &gwv1.GetPushRequest{Number: number, PageSize: maxListed})
	if err != nil {
		return page.Progress{}, err
	}
	s, at := got.GetPush(), got.GetPush().GetProgress()
	p := page.Progress{
		Number: number, Rollback: s.GetRollback(), RollbackTo: s.GetRollbackTo(), BreakGlass: s.GetBreakGlass(),
		Note: s.GetNote(), By: s.GetCreatedBy(), At: when(s.GetCreatedAt()),
		Edges: at.GetEdges(), Loaded: at.GetLoaded(), Failed: at.GetFailed(), Waiting: at.GetWaiting(), Offline: at.GetOffline(),
		Superseded: at.GetSuperseded(), More: max(0, int(got.GetTotal())-len(got.GetEdges())), Now: now,
	}
	p.CanPush = v.mayPush()
	for _, n := range s.GetNamespaces() {
		if n.GetReleased() {
			p.Namespaces = append(p.Namespaces, page.PushedNamespace{Name: n.GetNamespace(), Checksum: n.GetChecksum(), Created: n.GetCreated(), Updated: n.GetUpdated(), Deleted: n.GetDeleted()})
		}
	}
	for _, e := range got.GetEdges() {
		p.Outcomes = append(p.Outcomes, page.Outcome{Edge: e.GetEdge(), Namespace: e.GetNamespace(), State: page.PushOutcome(e.GetOutcome()), Why: sentence(e.GetReason())})
	}
	return p, nil
}
