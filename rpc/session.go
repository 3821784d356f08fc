package rpc

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

const defaultSessionTTL = 24 * time.Hour

// Authenticate returns whose bearer token this is. The error is an *Error with ReasonUnauthenticated.
func (h *Hub) Authenticate(ctx context.Context, bearer string) (Principal, error) {
	return h.core.authenticate(bearer)
}

func (k *core) authenticate(bearer string) (Principal, error) {
	if !identity.CheckCredential(identity.BearerPrefix, bearer) {
		return Principal{}, errNobody
	}
	hash := identity.HashCredential(bearer)
	return k.ownerOf(hash[:])
}

// ownerOf returns whose bearer token has a hash.
func (k *core) ownerOf(hash []byte) (Principal, error) {
	st := k.store.State()
	session, ok := st.Session(hash)
	if !ok || session.ExpiresAt != 0 && session.ExpiresAt <= k.now().UnixNano() {
		return Principal{}, errNobody
	}
	p, err := principalFor(st, session.User)
	if err != nil {
		return Principal{}, errNobody
	}
	p.session = hash
	return p, nil
}

var errNobody = &Error{Reason: ReasonUnauthenticated, Message: "the bearer token is not valid or has ended: sign in again"}

func principalFor(st *state.State, user string) (Principal, error) {
	u, ok := st.User(user)
	if !ok {
		return Principal{}, notFound("user", user)
	}
	role, err := ParseRole(u.Role)
	if err != nil {
		return Principal{}, fmt.Errorf("user %s: %w", user, err)
	}
	return Principal{User: u.Name, Role: role, Namespaces: u.Namespaces}, nil
}

// decoy is what the password of an unknown user is compared with, so that it takes as long as that of a known one.
var decoy = sync.OnceValue(func() string { return identity.HashPassword(newID()) })

// SignIn exchanges a password for a bearer token. An unknown user and a wrong password get the same answer after the
// same time; after too many of them, an account is not tried again from the same address for a while, and after more no
// account is. Sign-ins that find too many waiting are refused.
func (s *AccessServer) SignIn(ctx context.Context, r *gwv1.SignInRequest) (*gwv1.SignInResponse, error) {
	if err := checkSchema(ctx, r); err != nil {
		return nil, err
	}
	address := addressOf(ctx)
	account := r.User + "\x00" + address
	// An address whose tries fail, of whatever users, waits too; first, so that names that are made up fill no memory.
	wait := s.addresses.wait(address)
	if wait == 0 {
		wait = s.throttle.take(account)
	}
	if wait > 0 {
		return nil, &Error{Reason: ReasonTooManyTries, Message: fmt.Sprintf("too many tries to sign in; try again in %s", wait.Round(time.Second))}
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	encoded := decoy()
	user, known := st.User(r.User)
	if known {
		encoded = user.PasswordHash
	}
	right, err := s.verify(ctx, encoded, r.Password)
	if err != nil {
		return nil, err
	}
	if !right || !known {
		s.addresses.take(address)
		return nil, &Error{Reason: ReasonBadCredentials, Message: "the user name or the password is wrong"}
	}
	s.throttle.forgive(account)
	p, err := principalFor(st, r.User)
	if err != nil {
		return nil, err
	}
	p.Address = address
	return s.openSession(WithPrincipal(ctx, p), p, r)
}

// verify checks a password when it is its turn.
func (s *AccessServer) verify(ctx context.Context, encoded, password string) (bool, error) {
	leave, err := s.queue.enter(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	return identity.VerifyPassword(encoded, password), nil
}

func (s *AccessServer) openSession(ctx context.Context, p Principal, r *gwv1.SignInRequest) (*gwv1.SignInResponse, error) {
	ttl := defaultSessionTTL
	if r.Ttl != nil {
		ttl = r.Ttl.AsDuration()
	}
	bearer := identity.NewCredential(identity.BearerPrefix)
	hash := identity.HashCredential(bearer)
	now := s.now()
	expires := now.Add(ttl)
	err := s.deliver(ctx, &gwv1.Command{Body: &gwv1.Command_PutSession{PutSession: &gwv1.PutSessionRecord{Session: &gwv1.SessionRecord{
		TokenHash: hash[:], User: p.User, CreatedAt: now.UnixNano(), ExpiresAt: expires.UnixNano(),
	}}}}, func(st *state.State) bool { _, ok := st.Session(hash[:]); return ok })
	if err != nil {
		return nil, err
	}
	return &gwv1.SignInResponse{BearerToken: bearer, ExpiresAt: timestamppb.New(expires), Who: who(p)}, nil
}

// SignOut ends the bearer token the call is made with; a call made without one, in-process, has none to end.
func (s *AccessServer) SignOut(ctx context.Context, r *gwv1.SignOutRequest) (*gwv1.SignOutResponse, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return nil, err
	}
	if p.session == nil {
		return nil, &Error{Reason: ReasonPrecondition, Message: "the call was not made with a bearer token"}
	}
	_, err = s.change(ctx, &gwv1.Command{Body: &gwv1.Command_DeleteSession{DeleteSession: &gwv1.DeleteSessionRecord{TokenHash: p.session}}})
	if err != nil {
		return nil, err
	}
	return &gwv1.SignOutResponse{}, nil
}

// WhoAmI tells who calls.
func (s *AccessServer) WhoAmI(ctx context.Context, r *gwv1.WhoAmIRequest) (*gwv1.WhoAmIResponse, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return nil, err
	}
	return who(p), nil
}

func who(p Principal) *gwv1.WhoAmIResponse {
	return &gwv1.WhoAmIResponse{User: p.User, Role: p.Role.String(), Namespaces: p.Namespaces}
}

type addressKey struct{}

// WithAddress returns a context whose calls come from an address, "host:port" or "host"; for calls that have no
// principal yet.
func WithAddress(ctx context.Context, address string) context.Context {
	return context.WithValue(ctx, addressKey{}, host(address))
}

// addressOf returns the host the call came from, "" if it is not known.
func addressOf(ctx context.Context) string {
	address, _ := ctx.Value(addressKey{}).(string)
	p, _ := PrincipalOf(ctx)
	return cmp.Or(address, p.Address)
}

func host(address string) string {
	if h, _, err := net.SplitHostPort(address); err == nil {
		return h
	}
	return address
}
