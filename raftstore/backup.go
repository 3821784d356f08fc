package raftstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"github.com/klauspost/compress/zstd"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// ErrOtherCluster means that a backup is of another cluster. It comes with ErrNotProposed.
var ErrOtherCluster = errors.New("the backup is of another cluster")

// Backup writes a state: what snapshots are, with a SHA-256 over everything at its end. Secrets in it are sealed with
// the cluster's key, which is not in it.
func (s *Store) Backup(w io.Writer, st *state.State) error {
	if err := compress(w, st); err != nil {
		return fmt.Errorf("write a backup: %w", err)
	}
	return nil
}

// VerifyBackup reads what Backup wrote, to its end, and checks all of it: the sum, every record and every release. The
// error wraps state.ErrCorrupt, or state.ErrTooOld if a newer version of gw wrote it.
func VerifyBackup(r io.Reader) (*state.State, error) {
	st, err := decompress(r)
	if err != nil {
		return nil, fmt.Errorf("read a backup: %w", err)
	}
	return st, nil
}

// decompress is the inverse of compress.
func decompress(r io.Reader) (*state.State, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	st, err := state.Decode(z)
	if err != nil && !errors.Is(err, state.ErrTooOld) && !errors.Is(err, state.ErrCorrupt) {
		err = fmt.Errorf("%w: %w", state.ErrCorrupt, err)
	}
	return st, err
}

// Restoration is how a backup replaces the cluster's state.
type Restoration struct {
	// Adopt gives this cluster the identity of the backup's, which may be another one. Without it, a backup of another
	// cluster is refused.
	Adopt bool
	// Who asks, for the audit. Empty: this hub.
	Actor, ActorAddress string
}

// Restore replaces the whole state by a backup's, and raises the epoch. It is RestoreAs for a backup of this cluster.
func (s *Store) Restore(ctx context.Context, st *state.State) error {
	_, err := s.RestoreAs(ctx, st, Restoration{})
	return err
}

// restoreGap is how far the log index jumps, so that what is on its way to the log meanwhile comes before the restored
// state.
const restoreGap = 1 << 20

// RestoreAs replaces the whole state by a backup's: see state.Restore for what is kept of the present one. It returns a
// log index at which the restored state is committed. Only the leader can. The errors are those of Propose, and
// ErrOtherCluster. If leadership is lost on the way, the outcome is unknown, and this hub may have to be set up anew: then
// it fails, and says so.
func (s *Store) RestoreAs(ctx context.Context, st *state.State, r Restoration) (index uint64, err error) {
	type outcome struct {
		index uint64
		err   error
	}
	done := make(chan outcome, 1)
	// Not under ctx: what was begun is seen through, whoever has stopped waiting.
	started := s.tasks.run(func() {
		index, err := s.restore(s.ctx, st, r)
		done <- outcome{index, err}
	})
	if !started {
		return 0, fmt.Errorf("restore: %w: %w", ErrNotProposed, ErrClosed)
	}
	select {
	case o := <-done:
		return o.index, o.err
	case <-ctx.Done():
		return 0, fmt.Errorf("restore: %w: %w", ErrUnknownOutcome, ctx.Err())
	}
}

func (s *Store) restore(ctx context.Context, st *state.State, r Restoration) (index uint64, err error) {
	s.restoring.Lock()
	defer s.restoring.Unlock()
	current, err := s.Read(ctx)
	if err != nil {
		return 0, err
	}
	next, data, err := s.prepareRestore(current, st, r)
	if err != nil {
		return 0, fmt.Errorf("restore: %w: %w", ErrNotProposed, err)
	}
	if err := s.install(ctx, next, data); err != nil {
		return 0, fmt.Errorf("restore: %w", err)
	}
	if index, err = s.endRestore(ctx); err != nil {
		return 0, fmt.Errorf("restore: %w", err)
	}
	s.log.Info("a backup was restored", "cluster", next.Cluster().ClusterId, "epoch", next.Cluster().Epoch, "actor", r.Actor)
	return index, nil
}

// endRestore proposes a command on top of the restored state, however full the disk is. Raft ends a restore with an
// entry that no state machine sees: the command takes the state past it, and shows that the restored state takes
// commands. Whatever goes wrong, the state was restored here: the error wraps ErrUnknownOutcome and never one that says
// that nothing happened.
func (s *Store) endRestore(ctx context.Context) (index uint64, err error) {
	result, err := s.propose(ctx, &gwv1.Command{Body: &gwv1.Command_Beacon{Beacon: &gwv1.Beacon{}}})
	if err != nil {
		return 0, fmt.Errorf("%w: its last command: %v", ErrUnknownOutcome, err)
	}
	return result.Index, nil
}

// prepareRestore makes the state that is to be and its bytes, and reads them back: Raft ends the process if it can't.
func (s *Store) prepareRestore(current, st *state.State, r Restoration) (*state.State, []byte, error) {
	own, other := current.Cluster().ClusterId, st.Cluster().ClusterId
	if own != other && own != "" && !r.Adopt {
		return nil, nil, fmt.Errorf("%w: it is of %q, this is %q", ErrOtherCluster, other, own)
	}
	if r.Actor == "" {
		r.Actor = "hub/" + s.id
	}
	next, err := state.Restore(current, st, state.Restoration{
		Index: max(s.raft.LastIndex(), current.Index(), st.Index()) + restoreGap,
		At:    s.config.clock()().UnixNano(), Adopt: r.Adopt, Actor: r.Actor, ActorAddress: r.ActorAddress,
	})
	if err != nil {
		return nil, nil, err
	}
	var b bytes.Buffer
	if err := compress(&b, next); err != nil {
		return nil, nil, err
	}
	again, err := decompress(bytes.NewReader(b.Bytes()))
	if err != nil {
		return nil, nil, err
	}
	if again.Digest() != next.Digest() {
		return nil, nil, errors.New("the restored state is not what was written")
	}
	return next, b.Bytes(), nil
}

// install gives the state to Raft, which hands it to every hub.
func (s *Store) install(ctx context.Context, next *state.State, data []byte) (err error) {
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Index: next.Index() - 1, Size: int64(len(data))}
	for range 20 {
		err = answerOf(ctx, func() error { return s.raft.Restore(meta, bytes.NewReader(data), time.Minute) })
		// A change of the members is under way. Raft says so only in words.
		if err == nil || !strings.Contains(err.Error(), "cannot restore snapshot now") {
			break
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	switch begun := s.State().Cluster().Epoch >= next.Cluster().Epoch; {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, s.reason(ctx, err))
	case begun:
		// This hub has the restored state, and perhaps nobody else ever will: it must not go on with it.
		broken := fmt.Errorf("a restore was cut short (%w); this hub may differ from the others: "+
			"delete its data directory and let it join again", err)
		if merr := s.place.mark(markCutShort, broken.Error()); merr != nil {
			broken = errors.Join(broken, merr)
		}
		s.failed.set(broken)
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	case errors.Is(err, raft.ErrNotLeader):
		return ErrNotLeader
	}
	return fmt.Errorf("%w: %w", ErrNotProposed, err)
}
