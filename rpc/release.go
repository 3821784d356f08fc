package rpc

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"google.golang.org/protobuf/proto"

	"gw/raftstore"
	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// maxPushTries bounds how often a push without a base is made again because someone saved meanwhile.
const maxPushTries = 5

// ReleaseServer turns the working configuration into releases.
type ReleaseServer struct{ *core }

// plan is what a push of a scope would release, going by one state.
type plan struct {
	state      *state.State
	namespaces []planned // sorted by name
}

// planned is one namespace of a plan.
type planned struct {
	name     string
	target   *state.Release // nil: none yet
	checksum resource.Digest
	size     uint64
	again    bool // the target is of another epoch: edges take it only when it is released again
	// source is the release that a rollback brings back; nil: what is saved is released.
	source *state.Release
}

// unchanged reports that a push leaves the namespace alone.
func (n planned) unchanged() bool { return n.checksum == n.released() && !n.again }

// released returns the checksum of the target.
func (n planned) released() resource.Digest {
	if n.target == nil {
		return resource.EmptyChecksum
	}
	return n.target.Checksum
}

// number returns the number of the target, 0 if there is none.
func (n planned) number() uint64 {
	if n.target == nil {
		return 0
	}
	return n.target.Number
}

func makePlan(st *state.State, scope *gwv1.Scope) (*plan, error) {
	names, err := namespacesIn(st, scope)
	if err != nil {
		return nil, err
	}
	p := &plan{state: st}
	for _, name := range names {
		n := planned{name: name}
		n.target, _ = st.Target(name)
		n.again = n.target != nil && n.target.Epoch != st.Cluster().Epoch
		n.checksum = resource.Checksum(func(yield func(resource.Entry) bool) {
			for r := range st.Effective(name) {
				n.size += uint64(len(r.Spec))
				d, _ := resource.AsDigest(r.Digest)
				if !yield(resource.Entry{Kind: r.Kind, Name: r.Name, Digest: d}) {
					return
				}
			}
		})
		p.namespaces = append(p.namespaces, n)
	}
	return p, nil
}

// entries are what a plan would release to a namespace.
func (p *plan) entries(n planned) iter.Seq[*gwv1.ReleaseEntry] {
	if n.source != nil {
		return n.source.Entries()
	}
	return entriesOf(p.state, n.name)
}

// resources are the same, as they are saved.
func (p *plan) resources(n planned) iter.Seq[*gwv1.ResourceRecord] {
	if n.source == nil {
		return p.state.Effective(n.name)
	}
	return func(yield func(*gwv1.ResourceRecord) bool) {
		for e := range n.source.Entries() {
			r := &gwv1.ResourceRecord{Kind: e.Kind, Namespace: n.name, Name: e.Name, Digest: e.Digest, Spec: e.Spec, Secrets: e.Secrets}
			if !yield(r) {
				return
			}
		}
	}
}

// namespacesIn returns what a scope means, sorted. One that nothing lives in is refused: it is a mistyped name.
func namespacesIn(st *state.State, scope *gwv1.Scope) ([]string, error) {
	all := st.Namespaces()
	if everything(scope) {
		return all, nil
	}
	names := slices.Compact(slices.Sorted(slices.Values(scope.Namespaces)))
	for _, n := range names {
		if !slices.Contains(all, n) {
			return nil, notFound("namespace", n)
		}
	}
	return names, nil
}

func everything(scope *gwv1.Scope) bool {
	return len(scope.GetNamespaces()) == 0 || slices.Contains(scope.Namespaces, resource.Global)
}

// scopeNeeds returns the namespaces a caller must be allowed in; "" is all of them.
func scopeNeeds(scope *gwv1.Scope) []string {
	if everything(scope) {
		return []string{""}
	}
	return scope.Namespaces
}

// base identifies what a plan would release, and in place of what.
func (p *plan) base() string {
	h := sha256.New()
	for _, n := range p.namespaces {
		h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(n.name))))
		h.Write([]byte(n.name))
		h.Write(binary.BigEndian.AppendUint64(nil, n.number()))
		h.Write(n.checksum[:])
		if n.again {
			h.Write([]byte{1})
		}
		if n.source != nil {
			h.Write(binary.BigEndian.AppendUint64([]byte{2}, n.source.Number))
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// check does what edges will do; the error is everything that would keep them from loading it. What is a namespace's
// release already, in this epoch, is not looked at again.
func (k *core) check(ctx context.Context, p *plan) error {
	var wrong resource.Errors
	for _, n := range p.namespaces {
		if n.unchanged() {
			continue
		}
		if n.size > MaxConfiguration {
			return &Error{Reason: ReasonTooLarge, Message: fmt.Sprintf(
				"namespace %q has %d bytes of configuration, global included; at most %d fit an edge", n.name, n.size, MaxConfiguration)}
		}
		err := k.compile(ctx, n.name, p.resources(n))
		var found resource.Errors
		if err != nil && !asErrors(err, &found) {
			return fmt.Errorf("compile namespace %s: %w", n.name, err)
		}
		wrong = append(wrong, found...)
	}
	wrong = distinct(wrong)
	if len(wrong) > 0 {
		return wrong
	}
	missing := missingSecrets(p)
	if len(missing) == 0 {
		return nil
	}
	return &Error{Reason: ReasonMissingSecret, Message: missing.Error(), Violations: missing.Violations()}
}

// distinct drops what is said twice: a global resource that is wrong is so in every namespace.
func distinct(errs resource.Errors) resource.Errors {
	seen := map[resource.Error]bool{}
	return slices.DeleteFunc(errs, func(e *resource.Error) bool {
		repeated := seen[*e]
		seen[*e] = true
		return repeated
	})
}

// missingSecrets finds the secrets that resources name and nobody has saved, in the namespace of the edge or in global.
func missingSecrets(p *plan) (missing resource.Errors) {
	for _, n := range p.namespaces {
		if n.unchanged() {
			continue
		}
		for r := range p.resources(n) {
			for _, name := range r.Secrets {
				if _, ok := findSecret(p.state, n.name, name); ok {
					continue
				}
				missing = append(missing, &resource.Error{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name,
					Field: secretField(r, name), Code: ReasonMissingSecret,
					Message:  fmt.Sprintf("there is no secret %q in namespace %q or in global", name, n.name),
					Expected: "the name of a saved secret"})
			}
		}
	}
	return missing
}

// findSecret returns the secret that a name means for edges of a namespace.
func findSecret(st *state.State, namespace, name string) (*gwv1.SecretRecord, bool) {
	if s, ok := st.Secret(namespace, name); ok {
		return s, true
	}
	return st.Secret(resource.Global, name)
}

// Push makes a release for every namespace in scope whose effective configuration differs from its release.
func (s *ReleaseServer) Push(ctx context.Context, r *gwv1.PushRequest) (*gwv1.PushResponse, error) {
	if err := admitPush(ctx, r, r.Scope, r.BreakGlass, r.Note); err != nil {
		return nil, err
	}
	asked := requestOf(ctx, r)
	return s.release(ctx, asked, r.Base, r.BreakGlass, func(st *state.State) (*plan, error) { return makePlan(st, r.Scope) }, func(p *plan) *gwv1.Command {
		body := &gwv1.PushReleases{Note: r.Note, ConfirmRemoval: r.ConfirmRemoval, BreakGlass: r.BreakGlass, Request: asked}
		for _, n := range p.namespaces {
			body.Namespaces = append(body.Namespaces, &gwv1.NamespaceChecksum{Namespace: n.name, Checksum: n.checksum[:]})
		}
		return &gwv1.Command{Body: &gwv1.Command_PushReleases{PushReleases: body}}
	})
}

// admitPush checks who asks for a push or a rollback. To make one although pushes are frozen takes an admin who says why.
func admitPush(ctx context.Context, r proto.Message, scope *gwv1.Scope, breakGlass bool, note string) error {
	role := RoleOperator
	if breakGlass {
		role = RoleAdmin
	}
	if _, err := admit(ctx, r, role, scopeNeeds(scope)...); err != nil {
		return err
	}
	if breakGlass && note == "" {
		return invalid("note", ReasonInvalid, "say why this can't wait until pushes are no longer frozen")
	}
	return nil
}

// requestOf identifies what a call with an idempotency key asks for; nil without a key.
func requestOf(ctx context.Context, r proto.Message) []byte {
	if keyOf(ctx) == "" {
		return nil
	}
	h := sha256.New()
	io.WriteString(h, string(r.ProtoReflect().Descriptor().FullName()))
	b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(r) // fails for text that isn't UTF-8, which no request has
	h.Write(b)
	return h.Sum(nil)
}

// release makes the releases of a plan, as was asked for: it checks what the plan would release and proposes the command
// made of it. Without a base it does so again when somebody saved or pushed meanwhile.
func (s *ReleaseServer) release(ctx context.Context, asked []byte, base string, breakGlass bool,
	make func(*state.State) (*plan, error), command func(*plan) *gwv1.Command) (*gwv1.PushResponse, error) {
	for try := 1; ; try++ {
		answer, err := s.releaseOnce(ctx, asked, base, breakGlass, make, command)
		var refused *raftstore.Refused
		if base == "" && try < maxPushTries && errors.As(err, &refused) && refused.Refusal.GetCode() == gwv1.RefusalCode_REFUSAL_CODE_CHANGED {
			continue
		}
		return answer, err
	}
}

func (s *ReleaseServer) releaseOnce(ctx context.Context, asked []byte, base string, breakGlass bool,
	make func(*state.State) (*plan, error), command func(*plan) *gwv1.Command) (*gwv1.PushResponse, error) {
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	// A repeated call gets its first answer even if what is saved now could not be pushed.
	if first, ok := repeated(ctx, st); ok {
		return pushed(first, asked)
	}
	p, err := make(st)
	if err != nil {
		return nil, err
	}
	if base != "" && base != p.base() {
		return nil, &Error{Reason: ReasonChanged, Message: "what would be released has changed since you looked: preview it again"}
	}
	if held := p.frozen(); len(held) > 0 && !breakGlass {
		return nil, &Error{Reason: ReasonFrozen, Message: held.Error(), Violations: held.Violations()}
	}
	if err := s.check(ctx, p); err != nil {
		return nil, err
	}
	result, err := s.change(ctx, command(p))
	if err != nil {
		return nil, err
	}
	return pushed(result, asked)
}

// pushed is the answer to what was asked for; the result may be that of an earlier call with the same key.
func pushed(r *gwv1.Result, asked []byte) (*gwv1.PushResponse, error) {
	if r.GetPush() == nil || !bytes.Equal(r.Push.Request, asked) {
		return nil, keyReused()
	}
	answer := &gwv1.PushResponse{}
	for _, n := range r.GetPush().GetNamespaces() {
		answer.Namespaces = append(answer.Namespaces, &gwv1.PushedNamespace{
			Namespace: n.Namespace, Released: n.Released, Release: n.Number, Checksum: hex.EncodeToString(n.Checksum),
			Created: n.Created, Updated: n.Updated, Deleted: n.Deleted,
		})
		if n.Released {
			answer.Number = r.Push.Number
		}
	}
	return answer, nil
}

// ListReleases returns kept releases, newest first.
func (s *ReleaseServer) ListReleases(ctx context.Context, r *gwv1.ListReleasesRequest) (*gwv1.ListReleasesResponse, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return nil, err
	}
	if r.Namespace != "" {
		if _, err := allow(ctx, RoleViewer, r.Namespace); err != nil {
			return nil, err
		}
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	limit := int(r.Limit)
	if limit == 0 {
		limit = defaultPage
	}
	var kept []*state.Release
	for x := range st.Releases(r.Namespace) {
		if p.sees(x.Namespace) {
			kept = append(kept, x)
		}
	}
	slices.SortFunc(kept, func(a, b *state.Release) int {
		return cmp.Or(cmp.Compare(b.Number, a.Number), cmp.Compare(a.Namespace, b.Namespace))
	})
	answer := &gwv1.ListReleasesResponse{}
	for _, x := range kept[:min(limit, len(kept))] {
		target, _ := st.Target(x.Namespace)
		answer.Releases = append(answer.Releases, &gwv1.Release{
			Namespace: x.Namespace, Number: x.Number, Epoch: x.Epoch, Checksum: x.Checksum.String(),
			CreatedAt: stamp(x.CreatedAt), CreatedBy: x.CreatedBy, Note: x.Note,
			Resources: uint32(x.Len()), SizeBytes: x.Size, Target: target == x,
		})
	}
	return answer, nil
}

// entriesOf returns an effective configuration as a release would hold it.
func entriesOf(st *state.State, namespace string) iter.Seq[*gwv1.ReleaseEntry] {
	return func(yield func(*gwv1.ReleaseEntry) bool) {
		for r := range st.Effective(namespace) {
			if !yield(&gwv1.ReleaseEntry{Kind: r.Kind, Name: r.Name, Digest: r.Digest, Spec: r.Spec, Secrets: r.Secrets}) {
				return
			}
		}
	}
}
