package rpc

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/types/known/structpb"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// maxPreview is how many bytes of specs, in their canonical form, a preview shows; changes beyond that are only named.
const maxPreview = 8 << 20

// PreviewPush says what a push of this scope would change now.
func (s *ReleaseServer) PreviewPush(ctx context.Context, r *gwv1.PreviewPushRequest) (*gwv1.PreviewPushResponse, error) {
	if _, err := admit(ctx, r, RoleViewer, scopeNeeds(r.Scope)...); err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	p, err := makePlan(st, r.Scope)
	if r.Rollback {
		p, err = makeRollback(st, r.Scope, r.RollbackTo)
	}
	if err != nil {
		return nil, err
	}
	answer := &gwv1.PreviewPushResponse{Base: p.base(), Freezes: p.freezes()}
	if answer.Problems, err = problems(s.check(ctx, p)); err != nil {
		return nil, err
	}
	fleet, budget := s.viewFleet(st), maxPreview
	shown := fleet.counts()
	for _, n := range p.namespaces {
		c := shown[n.name]
		answer.Namespaces = append(answer.Namespaces, &gwv1.NamespacePreview{
			Namespace: n.name, Release: n.number(),
			ReleasedChecksum: n.released().String(), ExpectedChecksum: n.checksum.String(),
			Changes:   changes(p, n, &budget),
			SizeBytes: n.size, MaxSizeBytes: MaxConfiguration,
			Edges: c.edges, ConnectedEdges: c.connected,
		})
		shown := answer.Namespaces[len(answer.Namespaces)-1]
		if n.source != nil {
			shown.Source = n.source.Number
		}
		shown.TooOldEdges, shown.TooOld = s.tooOld(p, n, fleet)
	}
	return answer, nil
}

// problems turns what check found into lines; an error that is not about the configuration stays one.
func problems(err error) ([]string, error) {
	var wrong resource.Errors
	var own *Error
	switch {
	case err == nil:
		return nil, nil
	case asErrors(err, &wrong):
	case errors.As(err, &own) && len(own.Violations) == 0:
		return []string{own.Message}, nil
	case errors.As(err, &own):
		for _, v := range own.Violations {
			wrong = append(wrong, &resource.Error{Kind: v.Kind, Namespace: v.Namespace, Name: v.Name, Field: v.Field,
				Code: v.Code, Message: v.Message, Expected: v.Expected})
		}
	default:
		return nil, err
	}
	lines := make([]string, len(wrong))
	for i, e := range wrong {
		lines[i] = e.Error()
	}
	return lines, nil
}

// changes compares a namespace's release with what is saved. After a restore, a namespace that a push releases again as
// it is has all its resources listed as unchanged; one that a push leaves alone has none. Specs are shown until the budget, in bytes, is spent.
func changes(p *plan, n planned, budget *int) (found []*gwv1.ResourceChange) {
	if n.unchanged() {
		return nil
	}
	if n.checksum == n.released() {
		return releasedAgain(p.entries(n), budget)
	}
	return compared(entriesIn(n.target), p.entries(n), budget)
}

// compared lists what differs between two configurations.
func compared(from, to iter.Seq[*gwv1.ReleaseEntry], budget *int) (found []*gwv1.ResourceChange) {
	for before, after := range difference(from, to) {
		c := &gwv1.ResourceChange{Change: gwv1.Change_CHANGE_UPDATED}
		if *budget -= len(before.GetSpec()) + len(after.GetSpec()); *budget >= 0 {
			c.Before, c.After = rendered(before), rendered(after)
			c.Fields = fieldChanges(c.Before, c.After)
		}
		switch {
		case before == nil:
			c.Kind, c.Name, c.Change = after.Kind, after.Name, gwv1.Change_CHANGE_CREATED
		case after == nil:
			c.Kind, c.Name, c.Change = before.Kind, before.Name, gwv1.Change_CHANGE_DELETED
		default:
			c.Kind, c.Name = after.Kind, after.Name
		}
		found = append(found, c)
	}
	return found
}

// releasedAgain lists what a push releases once more as it is, which edges have to load all the same.
func releasedAgain(entries iter.Seq[*gwv1.ReleaseEntry], budget *int) (found []*gwv1.ResourceChange) {
	for e := range entries {
		c := &gwv1.ResourceChange{Kind: e.Kind, Name: e.Name, Change: gwv1.Change_CHANGE_UNCHANGED}
		if *budget -= 2 * len(e.Spec); *budget >= 0 {
			c.Before = rendered(e)
			c.After = c.Before
		}
		found = append(found, c)
	}
	return found
}

// rendered shows a spec as in a file; one that this binary can't read is shown as the reason.
func rendered(e *gwv1.ReleaseEntry) *structpb.Struct {
	if e == nil {
		return nil
	}
	spec, err := resource.Decode(e.Kind, e.Name, e.Spec)
	if err != nil {
		return &structpb.Struct{Fields: map[string]*structpb.Value{"unreadable": structpb.NewStringValue(err.Error())}}
	}
	return resource.Render(spec)
}

// secretField returns the path of the field of a resource that names a secret.
func secretField(r *gwv1.ResourceRecord, name string) string {
	spec, err := resource.Decode(r.Kind, r.Name, r.Spec)
	if err != nil {
		return "spec"
	}
	found := "spec"
	visit := func(v protopath.Values) error {
		last := v.Index(-1)
		if last.Step.Kind() != protopath.FieldAccessStep || last.Step.FieldDescriptor().Name() != "secret" {
			return nil
		}
		if last.Value.Interface() == any(name) {
			found = "spec" + fieldPath(v.Path)
			return protorange.Terminate
		}
		return nil
	}
	if err := protorange.Range(spec.ProtoReflect(), visit); err != nil {
		return "spec"
	}
	return found
}

// fieldPath words a path as files have it: ".upstreams[0].url".
func fieldPath(path protopath.Path) (s string) {
	for _, step := range path {
		switch step.Kind() {
		case protopath.FieldAccessStep:
			s += "." + step.FieldDescriptor().TextName()
		case protopath.ListIndexStep:
			s += fmt.Sprintf("[%d]", step.ListIndex())
		case protopath.MapIndexStep:
			s += fmt.Sprintf("[%q]", step.MapIndex().String())
		}
	}
	return s
}
