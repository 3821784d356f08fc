package uplink

import (
	"context"

	"gw/rpc/identity"
)

// revokedReason is a hub's word for having ended the certificates of this edge.
const revokedReason = "revoked"

// noteRevoked notes what a call's error says of the edge's certificates, and reports whether they were revoked. The edge
// goes on serving what it has, as it does without a hub: whoever wants it gone stops it.
func (u *Uplink) noteRevoked(err error) bool {
	if reasonOf(err) != revokedReason {
		return false
	}
	u.mu.Lock()
	first := u.revoked == ""
	u.revoked = messageOf(err)
	u.mu.Unlock()
	if first {
		u.log.Error("this edge was revoked: it goes on serving what it has, and is told nothing new", "reason", messageOf(err))
	}
	return true
}

// noteEnded has the certificate renewed soon if a call's error says that it has ended: a hub is there again.
func (u *Uplink) noteEnded(err error) {
	if reasonOf(err) == certificateNeeded {
		wake(u.renewNow)
	}
}

// comeBack enrols again if the join token in the settings is another than the one the revoked identity was got with. One
// that was used before is not: it would undo the revocation.
func (u *Uplink) comeBack(ctx context.Context) bool {
	token, err := identity.ParseJoinToken(u.c.JoinToken)
	if err != nil || u.cameBack || token.ID == u.ident.Load().stored.JoinTokenId {
		return false
	}
	u.cameBack = true
	if err := u.enrol(ctx); err != nil {
		u.log.Error("the new join token does not bring this edge back", "error", err)
		return false
	}
	return true
}
