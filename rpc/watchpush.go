package rpc

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"gw/raftstore"
	"gw/rpc/gwv1"
)

// progressPause and maxProgressPause bound the time between two looks at the fleet, which heartbeats of a big one would
// otherwise fill.
const (
	progressPause    = 50 * time.Millisecond
	maxProgressPause = time.Second
)

// WatchPush is FollowPush over the wire.
func (s *ReleaseServer) WatchPush(ctx context.Context, r *gwv1.WatchPushRequest, stream *connect.ServerStream[gwv1.WatchPushResponse]) error {
	return s.FollowPush(ctx, r, stream.Send)
}

// FollowPush sends the progress of a push at once and whenever it changes, until none of its edges is waited for any more:
// each has the release or a later one, can't load it, or is gone. It ends early when send fails.
func (s *ReleaseServer) FollowPush(ctx context.Context, r *gwv1.WatchPushRequest, send func(*gwv1.WatchPushResponse) error) error {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return err
	}
	st, err := s.read(ctx)
	if err != nil {
		return err
	}
	var last *gwv1.WatchPushResponse
	for {
		_, _, revision := s.revision() // before looking, so that nothing is missed
		looked := time.Now()
		now, err := s.progress(st, p, r.Number)
		if err != nil {
			return err
		}
		took := time.Since(looked)
		if last == nil || !proto.Equal(now, last) {
			if err := send(now); err != nil {
				return err
			}
		}
		if last = now; now.Waiting == 0 {
			return nil
		}
		// Time alone makes an edge one that is gone, so look once a second at least.
		waiting, cancel := context.WithTimeout(ctx, time.Second)
		_, err = s.wake(waiting, revision)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if !s.store.Leading() {
			return raftstore.ErrNotLeader
		}
		// To look through ten thousand edges takes a while, in which they are not served.
		if err := pause(ctx, min(max(progressPause, 4*took), maxProgressPause)); err != nil {
			return err
		}
		st = s.store.State()
	}
}

// pause lets more happen before the next look.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
