package uplink

import (
	"context"
	"fmt"
	"time"

	"gw/rpc/gwv1"
)

// applyAccess takes changes to tokens, apps and secrets: in memory and to the streams of revoked tokens at once, to the
// disk right after. The version is raised last, so what is reported as applied is.
func (u *Uplink) applyAccess(changes *gwv1.AccessChanges) {
	if u.c.Tokens != nil {
		u.c.Tokens.apply(changes)
	}
	stale := changes.Reset_ && u.secrets.doubt()
	for _, c := range changes.Changes {
		if name, ok := c.Change.(*gwv1.AccessChange_ChangedSecret); ok && u.secrets.changed(name.ChangedSecret) {
			stale = true
		}
	}
	if stale {
		wake(u.fetchNow)
	}
	u.mu.Lock()
	version := max(u.access.AccessVersion, changes.AccessVersion)
	if changes.Reset_ {
		version = changes.AccessVersion
	}
	u.setAccessLocked(u.access.ClusterId, u.access.Epoch, version)
	u.mu.Unlock()
	wake(u.saveNow)
	if len(changes.Changes) > 0 {
		// Whoever revoked something waits to see how far it got. A fleet spreads its answers over a second.
		time.AfterFunc(time.Duration(random()*float64(time.Second)), func() { wake(u.beatNow) })
	}
}

// resetAccess is for a hub of another cluster or epoch than the last one, or the first ever: versions of the two can't be
// compared, so everything cached is validated again before its next use.
func (u *Uplink) resetAccess(tick *gwv1.Tick) {
	if u.c.Tokens != nil {
		u.c.Tokens.apply(&gwv1.AccessChanges{Reset_: true, AccessVersion: tick.AccessVersion})
	}
	if u.secrets.doubt() {
		wake(u.fetchNow)
	}
	u.mu.Lock()
	u.setAccessLocked(tick.ClusterId, tick.Epoch, tick.AccessVersion)
	u.mu.Unlock()
	wake(u.saveNow)
}

func (u *Uplink) setAccessLocked(cluster string, epoch, version uint64) {
	u.access = &gwv1.StoredAccess{ClusterId: cluster, Epoch: epoch, AccessVersion: version, HubHeardAt: u.now().UnixNano()}
}

// keepAccess saves the access version after it changed, apart from follow, which must not wait for a disk.
func (u *Uplink) keepAccess(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-u.saveNow:
		}
		u.mu.Lock()
		access := u.access
		u.mu.Unlock()
		if err := u.c.Store.SaveAccess(ctx, access); err != nil && ctx.Err() == nil {
			u.log.Error("the access version could not be saved; a restart replays from the one before", "error", err)
		}
	}
}

// validate asks the current hub about a token.
func (u *Uplink) validate(ctx context.Context, hash [32]byte) (*gwv1.ValidateTokenResponse, error) {
	client, err := u.client()
	if err != nil {
		return nil, err
	}
	question := &gwv1.ValidateTokenRequest{TokenHash: hash[:]}
	answer, err := client.ValidateToken(ctx, question)
	if reasonOf(err) == notLeader {
		// The stream will be at the leader in a moment. Somebody waits for this answer, so it is passed on.
		answer, err = u.passingOn().ValidateToken(ctx, question)
	}
	u.noteEnded(err)
	if err != nil {
		return nil, fmt.Errorf("validate token: %w", err)
	}
	return answer, nil
}

// isFollowing reports whether a hub's stream is open and ticking.
func (u *Uplink) isFollowing() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.following
}
