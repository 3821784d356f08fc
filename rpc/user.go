package rpc

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"time"
	"unicode/utf8"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/identity"
	"gw/rpc/resource"
)

// minPassword is how many characters a password has at least.
const minPassword = 8

// ListUsers lists who may sign in.
func (s *AccessServer) ListUsers(ctx context.Context, r *gwv1.ListUsersRequest) (*gwv1.ListUsersResponse, error) {
	if _, err := admit(ctx, r, RoleAdmin, ""); err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	sessions := map[string]uint32{}
	for x := range st.Sessions() {
		if x.ExpiresAt > s.now().UnixNano() {
			sessions[x.User]++
		}
	}
	answer := &gwv1.ListUsersResponse{}
	for u := range st.Users() {
		shown := shownUser(u)
		shown.Sessions = sessions[u.Name]
		answer.Users = append(answer.Users, shown)
	}
	return answer, nil
}

func shownUser(u *gwv1.UserRecord) *gwv1.User {
	return &gwv1.User{Name: u.GetName(), Role: u.GetRole(), Namespaces: u.GetNamespaces(), CreatedAt: stamp(u.GetCreatedAt())}
}

// CreateUser makes a user.
func (s *AccessServer) CreateUser(ctx context.Context, r *gwv1.CreateUserRequest) (*gwv1.CreateUserResponse, error) {
	if _, err := admit(ctx, r, RoleAdmin, ""); err != nil {
		return nil, err
	}
	if err := checkNamespaces(r.Namespaces); err != nil {
		return nil, err
	}
	made := ""
	if r.Password == "" {
		made = rand.Text()
	} else if err := checkPassword(r.Password); err != nil {
		return nil, err
	}
	user := &gwv1.UserRecord{
		Name: r.Name, Role: r.Role, Namespaces: r.Namespaces, PasswordHash: identity.HashPassword(cmp.Or(r.Password, made)), CreatedAt: s.now().UnixNano(),
	}
	cmd := &gwv1.Command{Body: &gwv1.Command_PutUser{PutUser: &gwv1.PutUserRecord{User: user, Create: true}}}
	var err error
	if made == "" {
		_, err = s.change(ctx, cmd)
	} else {
		err = s.deliver(ctx, cmd, func(st *state.State) bool {
			u, ok := st.User(r.Name)
			return ok && u.PasswordHash == user.PasswordHash
		})
	}
	if err != nil {
		return nil, err
	}
	return &gwv1.CreateUserResponse{User: shownUser(user), Password: made}, nil
}

// SetUserRole changes what a user may do.
func (s *AccessServer) SetUserRole(ctx context.Context, r *gwv1.SetUserRoleRequest) (*gwv1.SetUserRoleResponse, error) {
	if _, err := admit(ctx, r, RoleAdmin, ""); err != nil {
		return nil, err
	}
	if err := checkNamespaces(r.Namespaces); err != nil {
		return nil, err
	}
	if err := s.changeUser(ctx, &gwv1.UserRecord{Name: r.Name, Role: r.Role, Namespaces: r.Namespaces}); err != nil {
		return nil, err
	}
	u, _ := s.store.State().User(r.Name)
	return &gwv1.SetUserRoleResponse{User: shownUser(u)}, nil
}

// SetPassword changes a password: anyone's by an admin of every namespace, one's own by who has the current one.
func (s *AccessServer) SetPassword(ctx context.Context, r *gwv1.SetPasswordRequest) (*gwv1.SetPasswordResponse, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return nil, err
	}
	name := cmp.Or(r.Name, p.User)
	if name != p.User {
		if _, err := allow(ctx, RoleAdmin, ""); err != nil {
			return nil, err
		}
	}
	if err := checkPassword(r.Password); err != nil {
		return nil, err
	}
	if name == p.User {
		if err := s.checkCurrent(ctx, p, r.CurrentPassword); err != nil {
			return nil, err
		}
	}
	if err := s.changeUser(ctx, &gwv1.UserRecord{Name: name, PasswordHash: identity.HashPassword(r.Password)}); err != nil {
		return nil, err
	}
	return &gwv1.SetPasswordResponse{}, nil
}

// checkCurrent refuses who has a session and not the password. Guessing it is throttled as signing in is.
func (s *AccessServer) checkCurrent(ctx context.Context, p Principal, password string) error {
	account := p.User + "\x00" + addressOf(ctx)
	if wait := s.throttle.take(account); wait > 0 {
		return &Error{Reason: ReasonTooManyTries, Message: fmt.Sprintf("too many tries; try again in %s", wait.Round(time.Second))}
	}
	st, err := s.read(ctx)
	if err != nil {
		return err
	}
	u, ok := st.User(p.User)
	if !ok {
		return notFound("user", p.User)
	}
	right, err := s.verify(ctx, u.PasswordHash, password)
	switch {
	case err != nil:
		return err
	case !right:
		return &Error{Reason: ReasonForbidden, Message: "the current password is wrong; your own password is changed by who knows it"}
	}
	s.throttle.forgive(account)
	return nil
}

// DeleteUser deletes a user.
func (s *AccessServer) DeleteUser(ctx context.Context, r *gwv1.DeleteUserRequest) (*gwv1.DeleteUserResponse, error) {
	if _, err := admit(ctx, r, RoleAdmin, ""); err != nil {
		return nil, err
	}
	_, err := s.change(ctx, &gwv1.Command{Body: &gwv1.Command_DeleteUser{DeleteUser: &gwv1.DeleteUserRecord{Name: r.Name}}})
	if err != nil {
		return nil, err
	}
	return &gwv1.DeleteUserResponse{}, nil
}

// changeUser changes a user that is there.
func (s *AccessServer) changeUser(ctx context.Context, u *gwv1.UserRecord) error {
	st, err := s.read(ctx)
	if err != nil {
		return err
	}
	if _, ok := st.User(u.Name); !ok {
		return notFound("user", u.Name)
	}
	_, err = s.change(ctx, &gwv1.Command{Body: &gwv1.Command_PutUser{PutUser: &gwv1.PutUserRecord{User: u, Update: true}}})
	return err
}

func checkPassword(password string) error {
	if n := utf8.RuneCountInString(password); n < minPassword {
		return invalid("password", ReasonInvalid, "has %d characters; want at least %d", n, minPassword)
	}
	return nil
}

func checkNamespaces(names []string) error {
	for _, n := range names {
		if n != resource.Global && !resource.ValidName(n) {
			return invalid("namespaces", ReasonInvalid, "%q: want %s", n, resource.NameRule)
		}
	}
	return nil
}
