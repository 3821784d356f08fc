package state

import (
	"crypto/sha256"
	"slices"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

// recall looks the command's idempotency key up. A key known with the same request gives the first result; with
// another, a refusal. Otherwise the fingerprint is returned, to be remembered; it is nil without a key.
func (x *change) recall() (fingerprint []byte, result *gwv1.Result, r *gwv1.Refusal) {
	if x.command.IdempotencyKey == "" {
		return nil, nil, nil
	}
	request, r := x.request()
	if r != nil {
		return nil, nil, r
	}
	f := fingerprintOf(request)
	known, ok := one[*gwv1.IdempotencyRecord](x.tx, tableIdempotency, byID, join(x.command.Actor, x.command.IdempotencyKey))
	switch {
	case !ok:
		return f[:], nil, nil
	case string(known.CommandSha256) == string(f[:]):
		return nil, known.Result, nil
	}
	return nil, nil, refuse(gwv1.RefusalCode_REFUSAL_CODE_PRECONDITION, "idempotency_key_reused",
		"this idempotency key was used for another request")
}

// request is the command with all that it asks for in itself: a staged batch names its parts only, which say nothing of
// what is in them to whoever asks again with a stage of his own.
func (x *change) request() (*gwv1.Command, *gwv1.Refusal) {
	m := x.command.GetChangeResources()
	if m.GetStage() == "" {
		return x.command, nil
	}
	edits, r := x.editsOf(m)
	if r != nil {
		return nil, r
	}
	return &gwv1.Command{Body: &gwv1.Command_ChangeResources{ChangeResources: &gwv1.ChangeResources{Edits: edits}}}, nil
}

// remember keeps the result under the command's key, within the limits: the oldest keys go first.
func (x *change) remember(fingerprint []byte) {
	if fingerprint == nil {
		return
	}
	r := &gwv1.IdempotencyRecord{
		Actor: x.command.Actor, Key: x.command.IdempotencyKey, CommandSha256: fingerprint, Result: x.result, At: x.at,
	}
	x.put(tableIdempotency, r)
	x.totals.idempotencyKeys++
	x.totals.idempotencyBytes += proto.Size(r)
	for x.totals.idempotencyKeys > 1 &&
		(x.totals.idempotencyKeys > maxIdempotencyKeys || x.totals.idempotencyBytes > maxIdempotencyBytes) {
		for r := range upTo[*gwv1.IdempotencyRecord](x.tx, tableIdempotency, byIndex, 1) {
			x.dropIdempotency(r)
		}
	}
}

func (x *change) dropIdempotency(r *gwv1.IdempotencyRecord) {
	x.drop(tableIdempotency, r)
	x.totals.idempotencyKeys--
	x.totals.idempotencyBytes -= proto.Size(r)
}

// fingerprintOf identifies what a command asks for. A retry is made anew by its proposer, with other IDs, times,
// hashes, seals and stages, and plans a push by another state: these don't count, or no retry would ever be recognised.
func fingerprintOf(c *gwv1.Command) [sha256.Size]byte {
	body := proto.CloneOf(&gwv1.Command{Body: c.Body})
	switch b := body.Body.(type) {
	case *gwv1.Command_Bootstrap:
		b.Bootstrap = &gwv1.Bootstrap{}
	case *gwv1.Command_ChangeResources:
		b.ChangeResources = requested(b.ChangeResources)
	case *gwv1.Command_PushReleases:
		b.PushReleases = &gwv1.PushReleases{Request: b.PushReleases.GetRequest()}
	case *gwv1.Command_RollbackReleases:
		b.RollbackReleases = &gwv1.RollbackReleases{Request: b.RollbackReleases.GetRequest()}
	case *gwv1.Command_PutApp:
		if a := b.PutApp.GetApp(); a != nil {
			a.Id, a.CreatedAt = "", 0
		}
	case *gwv1.Command_PutToken:
		if t := b.PutToken.GetToken(); t != nil {
			b.PutToken.Token = &gwv1.TokenRecord{AppId: t.AppId, Note: t.Note}
		}
	case *gwv1.Command_PutSecret:
		if s := b.PutSecret.GetSecret(); s != nil {
			b.PutSecret.Secret = &gwv1.SecretRecord{Namespace: s.Namespace, Name: s.Name}
		}
	case *gwv1.Command_PutJoinToken:
		if t := b.PutJoinToken.GetJoinToken(); t != nil {
			t.Id, t.SecretHash, t.CreatedAt, t.ExpiresAt = "", nil, 0, 0
		}
	case *gwv1.Command_EnrollEdge:
		if e := b.EnrollEdge.GetEdge(); e != nil {
			b.EnrollEdge.Edge = &gwv1.EdgeRecord{Id: e.Id, Namespace: e.Namespace}
		}
	case *gwv1.Command_EnrollHub:
		if h := b.EnrollHub.GetHub(); h != nil {
			b.EnrollHub.Hub = &gwv1.HubRecord{Id: h.Id}
		}
	case *gwv1.Command_PutUser:
		if u := b.PutUser.GetUser(); u != nil {
			u.PasswordHash, u.CreatedAt = "", 0
		}
	case *gwv1.Command_PutSession:
		if s := b.PutSession.GetSession(); s != nil {
			b.PutSession.Session = &gwv1.SessionRecord{User: s.User}
		}
	}
	data, err := EncodeCommand(body)
	if err != nil {
		return [sha256.Size]byte{} // text that isn't UTF-8, which no decoded command has
	}
	return sha256.Sum256(data)
}

// requested is what a batch saves, by digest; without saves, what it deletes. Deletions beside saves come from pruning,
// and a retry finds them done.
func requested(m *gwv1.ChangeResources) *gwv1.ChangeResources {
	r := &gwv1.ChangeResources{}
	saves := slices.ContainsFunc(m.GetEdits(), func(e *gwv1.ResourceEdit) bool { return !e.GetDelete() })
	for _, e := range m.GetEdits() {
		if e.GetDelete() == saves {
			continue
		}
		r.Edits = append(r.Edits, &gwv1.ResourceEdit{
			Kind: e.GetKind(), Namespace: e.GetNamespace(), Name: e.GetName(), Delete: e.GetDelete(),
			Labels: e.GetLabels(), Digest: e.GetDigest(),
		})
	}
	return r
}
