package rpc

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

const (
	defaultPage = 100
	// maxPageSize is how many bytes of specs, in their canonical form, a page holds unless one alone has more.
	maxPageSize = 4 << 20
)

// ConfigServer keeps the working configuration.
type ConfigServer struct{ *core }

// ApplyResources saves a batch, whole or not at all; everything wrong with it is reported at once.
func (s *ConfigServer) ApplyResources(ctx context.Context, r *gwv1.ApplyResourcesRequest) (*gwv1.ApplyResourcesResponse, error) {
	if _, err := admit(ctx, r, RoleOperator, namespacesOf(r)...); err != nil {
		return nil, err
	}
	documents, err := documentsOf(r.Resources)
	if err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	b := &batch{state: st}
	b.first, _ = repeated(ctx, st)
	if err := b.save(documents, r.ExpectedVersions); err != nil {
		return nil, err
	}
	for _, ns := range r.PruneNamespaces {
		b.prune(orDefault(ns), documents)
	}
	if err := b.checkSize(); err != nil {
		return nil, err
	}
	if err := b.checkPluginIDs(); err != nil {
		return nil, err
	}
	if r.DryRun {
		return &gwv1.ApplyResourcesResponse{Outcomes: b.outcomes}, nil
	}
	if err := s.commit(ctx, b); err != nil {
		return nil, err
	}
	return &gwv1.ApplyResourcesResponse{Outcomes: b.outcomes}, nil
}

// namespacesOf returns every namespace a batch touches.
func namespacesOf(r *gwv1.ApplyResourcesRequest) []string {
	found := map[string]bool{}
	for _, x := range r.Resources {
		found[orDefault(x.GetMetadata().GetNamespace())] = true
	}
	for _, ns := range r.PruneNamespaces {
		found[orDefault(ns)] = true
	}
	return slices.Sorted(maps.Keys(found))
}

// documentsOf reads resources strictly; the error is everything wrong with all of them.
func documentsOf(resources []*gwv1.Resource) ([]*resource.Document, error) {
	var wrong resource.Errors
	seen := make(map[resource.Key]bool, len(resources))
	documents := make([]*resource.Document, 0, len(resources))
	for _, r := range resources {
		d, err := resource.FromProto(r)
		if err != nil {
			var errs resource.Errors
			if !asErrors(err, &errs) {
				return nil, fmt.Errorf("read %s/%s: %w", r.GetKind(), r.GetMetadata().GetName(), err)
			}
			wrong = append(wrong, errs...)
			continue
		}
		if seen[d.Key] {
			wrong = append(wrong, &resource.Error{Kind: d.Kind, Namespace: d.Namespace, Name: d.Name, Field: "metadata.name",
				Code: resource.CodeConflict, Message: "is in the batch more than once", Expected: "one resource of a kind and name in a namespace"})
		}
		seen[d.Key] = true
		documents = append(documents, d)
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return documents, nil
}

// ListResources returns a page of saved resources, sorted by namespace, kind and name.
func (s *ConfigServer) ListResources(ctx context.Context, r *gwv1.ListResourcesRequest) (*gwv1.ListResourcesResponse, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return nil, err
	}
	if r.Namespace != "" && !p.sees(r.Namespace) {
		_, err := allow(ctx, RoleViewer, r.Namespace)
		return nil, err
	}
	after, err := afterToken(r.PageToken)
	if err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	limit := int(r.PageSize)
	if limit == 0 {
		limit = defaultPage
	}
	answer, size := &gwv1.ListResourcesResponse{}, 0
	for x := range st.Resources(r.Namespace) {
		key := pageKey(x)
		if key <= after || r.Kind != "" && x.Kind != r.Kind || !p.sees(x.Namespace) {
			continue
		}
		if size += len(x.Spec); len(answer.Resources) == limit || size > maxPageSize && len(answer.Resources) > 0 {
			last := answer.Resources[len(answer.Resources)-1]
			answer.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(
				last.Metadata.Namespace + "\x00" + last.Kind + "\x00" + last.Metadata.Name))
			break
		}
		shown, err := shownResource(x)
		if err != nil {
			return nil, err
		}
		answer.Resources = append(answer.Resources, shown)
	}
	return answer, nil
}

// pageKey orders resources as the state does.
func pageKey(r *gwv1.ResourceRecord) string { return r.Namespace + "\x00" + r.Kind + "\x00" + r.Name }

func afterToken(token string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || token != "" && strings.Count(string(b), "\x00") != 2 {
		return "", invalid("page_token", ReasonInvalid, "is not one that a list returned")
	}
	return string(b), nil
}

// GetResource returns one saved resource.
func (s *ConfigServer) GetResource(ctx context.Context, r *gwv1.GetResourceRequest) (*gwv1.GetResourceResponse, error) {
	ns := orDefault(r.Namespace)
	if _, err := admit(ctx, r, RoleViewer, ns); err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	x, ok := st.Resource(r.Kind, ns, r.Name)
	if !ok {
		return nil, notFound("resource", ns+"/"+r.Kind+"/"+r.Name)
	}
	shown, err := shownResource(x)
	return &gwv1.GetResourceResponse{Resource: shown}, err
}

// DeleteResources deletes a batch, whole or not at all.
func (s *ConfigServer) DeleteResources(ctx context.Context, r *gwv1.DeleteResourcesRequest) (*gwv1.DeleteResourcesResponse, error) {
	found := map[string]bool{}
	for _, k := range r.Keys {
		found[orDefault(k.Namespace)] = true
	}
	if _, err := admit(ctx, r, RoleOperator, slices.Sorted(maps.Keys(found))...); err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	b := &batch{state: st}
	var missing []*gwv1.Violation
	seen := map[resource.Key]bool{}
	_, again := repeated(ctx, st) // then they are gone already, and the state knows what it answered
	for _, k := range r.Keys {
		key := resource.Key{Kind: k.Kind, Namespace: orDefault(k.Namespace), Name: k.Name}
		x, ok := st.Resource(key.Kind, key.Namespace, key.Name)
		if !ok && again {
			x = &gwv1.ResourceRecord{Kind: key.Kind, Namespace: key.Namespace, Name: key.Name}
		} else if !ok {
			missing = append(missing, &gwv1.Violation{Kind: key.Kind, Namespace: key.Namespace, Name: key.Name,
				Code: ReasonNotFound, Message: "there is no such resource"})
			continue
		}
		if !seen[key] {
			b.delete(x)
		}
		seen[key] = true
	}
	if len(missing) > 0 {
		first := missing[0]
		return nil, &Error{Reason: ReasonNotFound, Violations: missing,
			Message: fmt.Sprintf("there is no resource %q in namespace %q; nothing was deleted", first.Kind+"/"+first.Name, first.Namespace)}
	}
	if err := s.commit(ctx, b); err != nil {
		return nil, err
	}
	return &gwv1.DeleteResourcesResponse{Outcomes: b.outcomes}, nil
}

// batch is a change of many resources being put together from the state it read.
type batch struct {
	state    *state.State
	first    *gwv1.Result // of an earlier call with the same idempotency key; nil: there was none
	edits    []*gwv1.ResourceEdit
	outcomes []*gwv1.ResourceOutcome
	changed  []int // outcomes that edits belong to, in their order
}

func (b *batch) add(edit *gwv1.ResourceEdit, outcome *gwv1.ResourceOutcome) {
	b.changed = append(b.changed, len(b.outcomes))
	b.edits = append(b.edits, edit)
	b.outcomes = append(b.outcomes, outcome)
}

// saved reports whether an earlier call with the same idempotency key saved a resource, as far as can be told: it has
// been changed by it, or after it. Then the call is to come out as that one did, whatever the resource is now.
func (b *batch) saved(was *gwv1.ResourceRecord) bool {
	return b.first != nil && (was == nil || was.Version >= b.first.Index)
}

// save adds documents; the error names every one that is no longer as its caller expects.
func (b *batch) save(documents []*resource.Document, expected []uint64) error {
	var moved []*gwv1.Violation
	for i, d := range documents {
		was, exists := b.state.Resource(d.Kind, d.Namespace, d.Name)
		var want uint64
		if i < len(expected) {
			want = expected[i]
		}
		again := b.saved(was)
		if want != 0 && was.GetVersion() != want && !again {
			moved = append(moved, &gwv1.Violation{Kind: d.Kind, Namespace: d.Namespace, Name: d.Name, Code: ReasonChanged,
				Message: fmt.Sprintf("its version is %d", was.GetVersion()), Expected: fmt.Sprintf("version %d", want)})
			continue
		}
		spec, digest := d.Canonical()
		if exists && !bytes.Equal(was.Digest, digest[:]) && decodesEqual(was, d) {
			spec, digest = was.Spec, resource.Digest(was.Digest)
		}
		outcome := &gwv1.ResourceOutcome{Kind: d.Kind, Namespace: d.Namespace, Name: d.Name, Change: gwv1.Change_CHANGE_CREATED}
		if exists {
			outcome.Change, outcome.Version = gwv1.Change_CHANGE_UPDATED, was.Version
		}
		if exists && bytes.Equal(was.Digest, digest[:]) && maps.Equal(was.Labels, d.Labels) && !again {
			outcome.Change = gwv1.Change_CHANGE_UNCHANGED
			b.outcomes = append(b.outcomes, outcome)
			continue
		}
		b.add(&gwv1.ResourceEdit{
			Kind: d.Kind, Namespace: d.Namespace, Name: d.Name, Labels: d.Labels,
			Digest: digest[:], Spec: spec, ExpectedVersion: want, Secrets: resource.Secrets(d.Spec),
			OutsideReleases: resource.OutsideReleases(d.Spec),
		}, outcome)
	}
	if len(moved) > 0 {
		return &Error{Reason: ReasonChanged, Violations: moved,
			Message: fmt.Sprintf("%s/%s was changed since you read it; read it again and repeat your change", moved[0].Kind, moved[0].Name)}
	}
	return nil
}

// decodesEqual reports whether a document means what is stored, though another version may have written other bytes.
func decodesEqual(was *gwv1.ResourceRecord, d *resource.Document) bool {
	spec, err := resource.Decode(was.Kind, was.Name, was.Spec)
	return err == nil && proto.Equal(spec, d.Spec)
}

// prune adds the deletion of whatever else is in a namespace.
func (b *batch) prune(namespace string, documents []*resource.Document) {
	kept := map[resource.Key]bool{}
	for _, d := range documents {
		kept[d.Key] = true
	}
	for _, e := range b.edits { // of a namespace that is named twice
		kept[resource.Key{Kind: e.Kind, Namespace: e.Namespace, Name: e.Name}] = true
	}
	for x := range b.state.Resources(namespace) {
		if !kept[resource.Key{Kind: x.Kind, Namespace: x.Namespace, Name: x.Name}] {
			b.delete(x)
		}
	}
}

func (b *batch) delete(x *gwv1.ResourceRecord) {
	b.add(&gwv1.ResourceEdit{Kind: x.Kind, Namespace: x.Namespace, Name: x.Name, Delete: true},
		&gwv1.ResourceOutcome{Kind: x.Kind, Namespace: x.Namespace, Name: x.Name, Change: gwv1.Change_CHANGE_DELETED, Version: x.Version})
}

// checkSize refuses what would make an effective configuration larger than any edge takes.
func (b *batch) checkSize() error {
	layer := map[string]int64{} // namespace → bytes of specs
	for x := range b.state.Resources("") {
		layer[x.Namespace] += int64(len(x.Spec))
	}
	for _, e := range b.edits {
		was, _ := b.state.Resource(e.Kind, e.Namespace, e.Name)
		layer[e.Namespace] += int64(len(e.Spec) - len(was.GetSpec()))
	}
	// A sum counts what is overlaid twice; such a configuration is so near the cap that refusing it is kind.
	for ns, size := range layer {
		if ns != resource.Global {
			size += layer[resource.Global]
		}
		if size > MaxConfiguration {
			return &Error{Reason: ReasonTooLarge, Message: fmt.Sprintf(
				"namespace %q would have %d bytes of configuration, global included; at most %d fit an edge", ns, size, MaxConfiguration)}
		}
	}
	return nil
}

// shownResource returns a record in the shape it has in a file.
func shownResource(x *gwv1.ResourceRecord) (*gwv1.Resource, error) {
	spec, err := resource.Decode(x.Kind, x.Name, x.Spec)
	if err != nil {
		return nil, fmt.Errorf("show %s/%s of namespace %s: %w", x.Kind, x.Name, x.Namespace, err)
	}
	digest, _ := resource.AsDigest(x.Digest)
	return &gwv1.Resource{
		ApiVersion: resource.APIVersion, Kind: x.Kind,
		Metadata: &gwv1.ResourceMetadata{Name: x.Name, Namespace: x.Namespace, Labels: x.Labels},
		Spec:     resource.Render(spec),
		Status: &gwv1.ResourceStatus{Version: x.Version, Digest: digest.String(),
			UpdatedAt: stamp(x.UpdatedAt), UpdatedBy: x.UpdatedBy},
	}, nil
}

// stamp returns a record's time for the wire; 0 is none.
func stamp(unixNano int64) *timestamppb.Timestamp {
	if unixNano == 0 {
		return nil
	}
	return timestamppb.New(time.Unix(0, unixNano))
}
