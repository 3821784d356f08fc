package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"connectrpc.com/connect"

	"gw/raftstore"
	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

const (
	// backupChunk is how much of a backup one message holds.
	backupChunk = 1 << 20
	// maxBackup bounds what a restore reads.
	maxBackup = 4 << 30
)

// Backup streams the whole state: as of now, or what this hub has if that is what the caller is content with.
func (s *ClusterServer) Backup(ctx context.Context, r *gwv1.BackupRequest, stream *connect.ServerStream[gwv1.BackupResponse]) error {
	if _, err := admit(ctx, r, RoleAdmin, ""); err != nil {
		return err
	}
	if r.Stale {
		ctx = context.WithValue(ctx, staleKey{}, true)
	}
	st, err := s.read(ctx)
	if err != nil {
		return err
	}
	chunks := &chunks{send: func(b []byte) error { return stream.Send(&gwv1.BackupResponse{Chunk: b}) }}
	if err := s.store.Backup(chunks, st); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	return chunks.flush()
}

// chunks is a writer that sends what it gets in parts of a size.
type chunks struct {
	send func([]byte) error
	part []byte
}

// Write implements io.Writer.
func (c *chunks) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		if c.part == nil {
			c.part = make([]byte, 0, backupChunk)
		}
		n := min(len(p), backupChunk-len(c.part))
		c.part, p = append(c.part, p[:n]...), p[n:]
		if len(c.part) < backupChunk {
			continue
		}
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	return written, nil
}

func (c *chunks) flush() error {
	if len(c.part) == 0 {
		return nil
	}
	err := c.send(c.part)
	c.part = c.part[:0]
	return err
}

// Restore replaces the whole state by a backup's and raises the cluster's epoch. The whole file is read and checked
// before anything is changed: its trailer, which cluster it is of, and that this cluster's key opens what is sealed in
// it. Tokens that were revoked since the backup was made are valid again.
func (s *ClusterServer) Restore(ctx context.Context, stream *connect.ClientStream[gwv1.RestoreRequest]) (*gwv1.RestoreResponse, error) {
	if _, err := allow(ctx, RoleAdmin, ""); err != nil {
		return nil, err
	}
	if _, err := s.read(ctx); err != nil { // only the leader can; better said before the file is sent
		return nil, err
	}
	upload := &upload{stream: stream}
	backup, err := raftstore.VerifyBackup(upload)
	if upload.err != nil {
		return nil, upload.err
	}
	if err != nil {
		return nil, &Error{Reason: ReasonInvalid, Message: fmt.Sprintf("this is no whole backup, and nothing was changed: %v", err)}
	}
	if n, err := io.Copy(io.Discard, upload); err != nil || n > 0 {
		return nil, errors.Join(err, &Error{Reason: ReasonInvalid, Message: "something follows the backup, and nothing was changed"})
	}
	if err := s.checkBackup(backup, upload.adopt); err != nil {
		return nil, err
	}
	p, _ := PrincipalOf(ctx)
	index, err := s.store.RestoreAs(ctx, backup, raftstore.Restoration{Adopt: upload.adopt, Actor: p.User, ActorAddress: p.Address})
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	st := s.store.State()
	s.log.WarnContext(ctx, "the state was replaced by a backup; tokens revoked since it was made are valid again",
		"by", p.User, "backup_index", backup.Index(), "epoch", st.Cluster().Epoch)
	return &gwv1.RestoreResponse{Epoch: st.Cluster().Epoch, Index: index}, nil
}

// checkBackup refuses what this cluster could not go on with.
func (s *ClusterServer) checkBackup(backup *state.State, adopt bool) error {
	was, is := s.store.State().Cluster(), backup.Cluster()
	if was.ClusterId != is.ClusterId && !adopt {
		return &Error{Reason: ReasonPrecondition, Message: fmt.Sprintf(
			"the backup is of cluster %.8s and this is %.8s, and nothing was changed: to take on its identity, say adopt", is.ClusterId, was.ClusterId)}
	}
	if _, err := OpenCA(s.sealer, is); err != nil {
		return &Error{Reason: ReasonPrecondition, Message: "this cluster's key does not open what is sealed in the backup, and nothing was changed: " +
			"start the hub with the cluster.key of the cluster that was backed up"}
	}
	return nil
}

// upload reads a file that comes in messages.
type upload struct {
	stream *connect.ClientStream[gwv1.RestoreRequest]
	adopt  bool
	begun  bool
	part   []byte
	read   int64
	err    error // why the stream ended early
}

// Read implements io.Reader.
func (u *upload) Read(p []byte) (int, error) {
	for len(u.part) == 0 {
		if u.err != nil {
			return 0, u.err
		}
		if !u.stream.Receive() {
			if u.err = u.stream.Err(); u.err != nil {
				return 0, u.err
			}
			return 0, io.EOF
		}
		m := u.stream.Msg()
		u.part = m.Chunk
		if !u.begun {
			u.begun, u.adopt = true, m.Adopt
		}
		if u.read += int64(len(u.part)); u.read > maxBackup {
			u.err = &Error{Reason: ReasonTooLarge, Message: fmt.Sprintf("a backup may have at most %d bytes", int64(maxBackup))}
			return 0, u.err
		}
	}
	n := copy(p, u.part)
	u.part = u.part[n:]
	return n, nil
}
