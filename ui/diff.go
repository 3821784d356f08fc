package ui

import (
	"encoding/json"
	"net/http"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"

	"gw/rpc/gwv1"
	"gw/ui/page"
)

// diff shows what differs between two releases of a namespace, or between one and what is saved. Without a first one, the
// one before the second is taken.
func (k *console) diff(w http.ResponseWriter, r *http.Request, v *visitor) error {
	q := r.URL.Query()
	ns := clip(q.Get("ns"), 63)
	from, errFrom := rollbackTo(q.Get("from"))
	to, errTo := rollbackTo(q.Get("to"))
	if errFrom != nil || errTo != nil || ns == "" {
		return connect.NewError(connect.CodeInvalidArgument, errNoPage)
	}
	kept, err := call(k, v.ctx, k.Releases.ListReleases, &gwv1.ListReleasesRequest{Namespace: ns, Limit: 1000})
	if err != nil {
		return err
	}
	p := page.Diff{Shell: k.shell(v, "Compare releases", "/releases"), Namespace: ns, From: from, To: to}
	for _, rel := range kept.GetReleases() {
		p.Releases = append(p.Releases, rel.GetNumber())
		if from == 0 && p.From == 0 && to > 0 && rel.GetNumber() < to {
			p.From = rel.GetNumber()
		}
	}
	if from == 0 && to > 0 && p.From == 0 && slices.Contains(p.Releases, to) {
		p.First = true // there is none before it that is still kept
		return send(w, r, http.StatusOK, page.DiffPage(p))
	}
	got, err := call(k, v.ctx, k.Releases.DiffReleases, &gwv1.DiffReleasesRequest{Namespace: ns, From: p.From, To: to})
	if err != nil {
		return err
	}
	p.From = got.GetFrom()
	for _, c := range got.GetChanges() {
		if len(p.Changes) == maxListed {
			p.More++
			continue
		}
		p.Changes = append(p.Changes, resourceChange(c))
	}
	return send(w, r, http.StatusOK, page.DiffPage(p))
}

// resourceChange is a change with its fields: of what is created or deleted, all of its own.
func resourceChange(c *gwv1.ResourceChange) page.ResourceChange {
	out := page.ResourceChange{Kind: c.GetKind(), Name: c.GetName(), Change: page.Change(c.GetChange())}
	for _, f := range c.GetFields() {
		out.Fields = append(out.Fields, page.FieldChange{Path: f.GetPath(), Before: fieldValue(f.GetBefore()), After: fieldValue(f.GetAfter())})
	}
	switch c.GetChange() {
	case gwv1.Change_CHANGE_CREATED:
		out.Fields = ownFields(c.GetAfter(), func(f *page.FieldChange, value string) { f.After = value })
	case gwv1.Change_CHANGE_DELETED:
		out.Fields = ownFields(c.GetBefore(), func(f *page.FieldChange, value string) { f.Before = value })
	}
	return out
}

func ownFields(spec *structpb.Struct, set func(*page.FieldChange, string)) (fields []page.FieldChange) {
	for name, value := range spec.GetFields() {
		f := page.FieldChange{Path: "spec." + name}
		set(&f, fieldValue(value))
		fields = append(fields, f)
	}
	slices.SortFunc(fields, func(a, b page.FieldChange) int {
		if a.Path < b.Path {
			return -1
		}
		return 1
	})
	return fields
}

// maxValue is how many bytes of a field's value are shown.
const maxValue = 400

// fieldValue words a value: text as it is, anything else as JSON; "" is none.
func fieldValue(v *structpb.Value) string {
	if v == nil {
		return ""
	}
	text, ok := v.GetKind().(*structpb.Value_StringValue)
	shown := ""
	if ok && text.StringValue != "" {
		shown = text.StringValue
	} else {
		b, _ := json.Marshal(v.AsInterface()) // of plain values, which can be encoded
		shown = string(b)
	}
	if len(shown) > maxValue {
		return clip(shown, maxValue) + "…"
	}
	return shown
}
