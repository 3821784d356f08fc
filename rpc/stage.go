package rpc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"gw/raftstore"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// maxCommand is how large a command's body may be, so that it fits an entry of the log with all that surrounds it.
const maxCommand = 900 << 10

// asErrors reports whether err is resource.Errors, which it then puts into target.
func asErrors(err error, target *resource.Errors) bool { return errors.As(err, target) }

// commit applies a batch in one step. One that does not fit one log entry has its specs staged first, in entries that
// have no effect by themselves.
func (s *ConfigServer) commit(ctx context.Context, b *batch) error {
	if len(b.edits) == 0 {
		return nil
	}
	change := &gwv1.ChangeResources{Edits: b.edits}
	if proto.Size(change) > maxCommand {
		if err := s.stage(ctx, change); err != nil {
			return err
		}
	}
	if size := proto.Size(change); size > raftstore.MaxEntry-4<<10 {
		return tooMany(len(b.edits), size)
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

// stage moves the specs of a change out of it.
func (s *ConfigServer) stage(ctx context.Context, change *gwv1.ChangeResources) error {
	change.Stage = newID() + newID()
	for _, e := range change.Edits { // before anything is proposed: what can't be committed is not to be staged
		if !e.Delete {
			sum := sha256.Sum256(e.Spec)
			e.StagedSha256 = sum[:]
		}
	}
	specs := make([][]byte, len(change.Edits))
	for i, e := range change.Edits {
		specs[i], e.Spec = e.Spec, nil
	}
	if size := proto.Size(change); size > raftstore.MaxEntry-4<<10 {
		return tooMany(len(change.Edits), size)
	}
	seen := make(map[[32]byte]bool, len(specs))
	part, size := &gwv1.StageBlobs{Stage: change.Stage}, 0
	flush := func() error {
		if len(part.Blobs) == 0 {
			return nil
		}
		_, err := s.propose(ctx, &gwv1.Command{Body: &gwv1.Command_StageBlobs{StageBlobs: part}})
		part, size = &gwv1.StageBlobs{Stage: change.Stage}, 0
		if err != nil {
			return fmt.Errorf("stage a part of the batch: %w", err)
		}
		return nil
	}
	for i, spec := range specs {
		e := change.Edits[i]
		if e.Delete || seen[[32]byte(e.StagedSha256)] {
			continue
		}
		seen[[32]byte(e.StagedSha256)] = true
		if size+len(spec) > maxCommand {
			if err := flush(); err != nil {
				return err
			}
		}
		part.Blobs = append(part.Blobs, spec)
		size += len(spec) + 8
	}
	return flush()
}

// tooMany says how many resources a batch may have, going by what these need.
func tooMany(edits, size int) error {
	fits := int(int64(edits) * (raftstore.MaxEntry - 8<<10) / int64(size))
	return &Error{Reason: ReasonTooLarge, Message: fmt.Sprintf(
		"%d resources are too many to change in one step; about %d of this kind fit: save them in several batches", edits, fits)}
}
