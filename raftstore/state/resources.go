package state

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

func (x *change) stageBlobs(m *gwv1.StageBlobs) *gwv1.Refusal {
	if p := idProblem("stage", m.GetStage()); p != "" {
		return invalid(p)
	}
	for _, b := range m.Blobs {
		sum := sha256.Sum256(b)
		if _, ok := one[*gwv1.StagedBlob](x.tx, tableStaged, byID, join(m.Stage, string(sum[:]))); ok {
			continue
		}
		x.totals.stagedBytes += len(b)
		if x.totals.stagedBytes > maxStagedBytes {
			return refuse(gwv1.RefusalCode_REFUSAL_CODE_TOO_LARGE, "too_large",
				fmt.Sprintf("more than %d MiB of batches are staged; try again later", maxStagedBytes>>20))
		}
		x.put(tableStaged, &gwv1.StagedBlob{Stage: m.Stage, At: x.at, Sha256: sum[:], Blob: b})
	}
	return nil
}

func (x *change) dropStaged(r *gwv1.StagedBlob) {
	x.drop(tableStaged, r)
	x.totals.stagedBytes -= len(r.Blob)
}

// changeResources saves and deletes a batch, whole or not at all.
func (x *change) changeResources(m *gwv1.ChangeResources) *gwv1.Refusal {
	edits, r := x.editsOf(m)
	if r != nil {
		return r
	}
	seen := make(map[resource.Key]bool, len(edits))
	x.result.Versions = make([]uint64, len(edits))
	for i, e := range edits {
		k := resource.Key{Kind: e.GetKind(), Namespace: e.GetNamespace(), Name: e.GetName()}
		if seen[k] {
			return refuseEdit(gwv1.RefusalCode_REFUSAL_CODE_INVALID, "invalid", e, "it stands in the batch twice")
		}
		seen[k] = true
		version, r := x.edit(e)
		if r != nil {
			return r
		}
		x.result.Versions[i] = version
	}
	if m.Stage != "" {
		for _, b := range slices.Collect(list[*gwv1.StagedBlob](x.tx, tableStaged, byID, terminated(m.Stage))) {
			x.dropStaged(b)
		}
	}
	x.auditBatch()
	return nil
}

// editsOf returns what a batch does, from its stage if it was too large for one entry.
func (x *change) editsOf(m *gwv1.ChangeResources) ([]*gwv1.ResourceEdit, *gwv1.Refusal) {
	if m.GetStage() == "" {
		if len(m.GetEdits()) == 0 {
			return nil, invalid("a batch without edits")
		}
		return m.Edits, nil
	}
	if p := idProblem("stage", m.Stage); p != "" {
		return nil, invalid(p)
	}
	if len(m.Edits) > 0 || len(m.Staged) == 0 {
		return nil, invalid("a batch is in the command or in its stage")
	}
	var edits []*gwv1.ResourceEdit
	for _, sum := range m.Staged {
		b, ok := one[*gwv1.StagedBlob](x.tx, tableStaged, byID, join(m.Stage, string(sum)))
		if !ok {
			return nil, refuse(gwv1.RefusalCode_REFUSAL_CODE_PRECONDITION, "stage_missing", "a part of the batch is not staged, or no longer")
		}
		part := &gwv1.StagedEdits{}
		if err := proto.Unmarshal(b.Blob, part); err != nil {
			return nil, invalid("a part of the batch can't be decoded")
		}
		edits = append(edits, part.Edits...)
	}
	if len(edits) == 0 {
		return nil, invalid("a batch without edits")
	}
	return edits, nil
}

// auditBatch records the batch by its first change; a batch that changed nothing is no event.
func (x *change) auditBatch() {
	if len(x.touched) == 0 {
		return
	}
	k := x.touched[0]
	object, namespace := k.Kind+"/"+k.Name, k.Namespace
	if n := len(x.touched) - 1; n > 0 {
		object += fmt.Sprintf(" and %d more", n)
	}
	if slices.ContainsFunc(x.touched, func(t resource.Key) bool { return t.Namespace != namespace }) {
		namespace = ""
	}
	x.audit("apply", object, namespace)
}

// edit makes one change and returns the version the resource has then, 0 if it is gone.
func (x *change) edit(e *gwv1.ResourceEdit) (uint64, *gwv1.Refusal) {
	if p := nameProblem("namespace", e.GetNamespace()); p != "" {
		return 0, refuseEdit(gwv1.RefusalCode_REFUSAL_CODE_INVALID, "invalid", e, p)
	}
	old, there := one[*gwv1.ResourceRecord](x.tx, tableResources, byID, resourceKey(e.Kind, e.Namespace, e.Name))
	if r := checkExpected(e, old, there); r != nil {
		return 0, r
	}
	if e.Delete {
		if there {
			x.drop(tableResources, old)
			x.touch(e)
		}
		return 0, nil
	}
	next := &gwv1.ResourceRecord{
		Kind: e.Kind, Namespace: e.Namespace, Name: e.Name, Labels: e.Labels, Digest: e.Digest, Spec: e.Spec,
		Version: x.index, UpdatedAt: x.at, UpdatedBy: x.command.Actor, Secrets: e.Secrets,
		OutsideReleases: e.OutsideReleases,
	}
	if p := validResource(next); p != "" {
		return 0, refuseEdit(gwv1.RefusalCode_REFUSAL_CODE_INVALID, "invalid", e, p)
	}
	if there && bytes.Equal(old.Spec, next.Spec) {
		if maps.Equal(old.Labels, next.Labels) && slices.Equal(old.Secrets, next.Secrets) && old.OutsideReleases == next.OutsideReleases {
			return old.Version, nil
		}
		next.Spec, next.Digest = old.Spec, old.Digest // the same bytes, not a second copy
	}
	x.put(tableResources, next)
	x.touch(e)
	return x.index, nil
}

func (x *change) touch(e *gwv1.ResourceEdit) {
	x.touched = append(x.touched, resource.Key{Kind: e.Kind, Namespace: e.Namespace, Name: e.Name})
}

func checkExpected(e *gwv1.ResourceEdit, old *gwv1.ResourceRecord, there bool) *gwv1.Refusal {
	switch {
	case e.MustNotExist && (e.ExpectedVersion != 0 || e.Delete):
		return refuseEdit(gwv1.RefusalCode_REFUSAL_CODE_INVALID, "invalid", e, "expected to be there and not to be there")
	case e.MustNotExist && there:
		return refuseEdit(gwv1.RefusalCode_REFUSAL_CODE_ALREADY_EXISTS, "already_exists", e, "it is there already")
	case e.ExpectedVersion != 0 && !there:
		return refuseEdit(gwv1.RefusalCode_REFUSAL_CODE_CHANGED, "changed", e,
			fmt.Sprintf("expected version %d, it is deleted", e.ExpectedVersion))
	case e.ExpectedVersion != 0 && old.Version != e.ExpectedVersion:
		return refuseEdit(gwv1.RefusalCode_REFUSAL_CODE_CHANGED, "changed", e,
			fmt.Sprintf("expected version %d, it is %d", e.ExpectedVersion, old.Version))
	}
	return nil
}

func refuseEdit(code gwv1.RefusalCode, reason string, e *gwv1.ResourceEdit, message string) *gwv1.Refusal {
	return refuse(code, reason, fmt.Sprintf("%s/%s in %s: %s", shown(e.GetKind()), shown(e.GetName()), shown(e.GetNamespace()), message),
		&gwv1.Violation{Kind: e.GetKind(), Namespace: e.GetNamespace(), Name: e.GetName(), Code: reason, Message: message})
}
