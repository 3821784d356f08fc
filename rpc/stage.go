package rpc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// maxCommand is how large a command's body may be, so that it fits an entry of the log with all that surrounds it.
const maxCommand = 900 << 10

// asErrors reports whether err is resource.Errors, which it then puts into target.
func asErrors(err error, target *resource.Errors) bool { return errors.As(err, target) }

// commit applies a batch in one step. One that does not fit one log entry is staged first, in entries that have no effect
// by themselves.
func (s *ConfigServer) commit(ctx context.Context, b *batch) error {
	if len(b.edits) == 0 {
		return nil
	}
	change := &gwv1.ChangeResources{Edits: b.edits}
	if proto.Size(change) > maxCommand {
		var err error
		if change, err = s.stage(ctx, b.edits); err != nil {
			return err
		}
	}
	result, err := s.change(ctx, &gwv1.Command{Body: &gwv1.Command_ChangeResources{ChangeResources: change}})
	if err != nil {
		return err
	}
	for i, version := range result.Versions {
		if i < len(b.changed) {
			b.outcomes[b.changed[i]].Version = version
		}
	}
	return nil
}

// stage puts edits into the log in parts, and returns the change that makes all of them effective.
func (s *ConfigServer) stage(ctx context.Context, edits []*gwv1.ResourceEdit) (*gwv1.ChangeResources, error) {
	change := &gwv1.ChangeResources{Stage: newID() + newID()}
	for len(edits) > 0 {
		size, n := 0, 0
		for n < len(edits) && (n == 0 || size+proto.Size(edits[n]) <= maxCommand) {
			size += proto.Size(edits[n]) + 8
			n++
		}
		part, err := proto.MarshalOptions{Deterministic: true}.Marshal(&gwv1.StagedEdits{Edits: edits[:n]})
		if err != nil {
			return nil, fmt.Errorf("encode a part of the batch: %w", err)
		}
		sum := sha256.Sum256(part)
		change.Staged, edits = append(change.Staged, sum[:]), edits[n:]
		_, err = s.propose(ctx, &gwv1.Command{Body: &gwv1.Command_StageBlobs{StageBlobs: &gwv1.StageBlobs{Stage: change.Stage, Blobs: [][]byte{part}}}})
		if err != nil {
			return nil, fmt.Errorf("stage a part of the batch: %w", err)
		}
	}
	return change, nil
}
