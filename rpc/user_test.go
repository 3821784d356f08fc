package rpc

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
)

// accessOver returns a client at the admin listener, with a bearer token or none.
func (h *harness) accessOver(token string) gwv1connect.AccessServiceClient {
	return gwv1connect.NewAccessServiceClient(h.h2c(), h.admin, bearer(token))
}

func TestAUserFromItsFirstPasswordToItsEnd(t *testing.T) {
	h := newHarness(t)
	admin := h.accessOver(h.user("root", RoleAdmin))
	ctx := t.Context()
	made, err := admin.CreateUser(ctx, &gwv1.CreateUserRequest{Name: "ann@example.com", Role: "operator", Namespaces: []string{"eu"}})
	must(t, err)
	if len(made.Password) < 20 || made.User.Role != "operator" {
		t.Fatalf("made %v with a password of %d characters", made.User, len(made.Password))
	}
	nobody := h.accessOver("")
	in, err := nobody.SignIn(ctx, &gwv1.SignInRequest{User: "ann@example.com", Password: made.Password})
	must(t, err)
	ann := h.accessOver(in.BearerToken)
	list, err := admin.ListUsers(ctx, &gwv1.ListUsersRequest{})
	must(t, err)
	if len(list.Users) != 2 || list.Users[0].Name != "ann@example.com" || list.Users[0].Sessions != 1 || list.Users[0].Namespaces[0] != "eu" {
		t.Errorf("listed %v", list.Users)
	}
	_, err = ann.ListUsers(ctx, &gwv1.ListUsersRequest{})
	h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "operator")

	// One's own password needs the current one, and changing it ends one's sessions.
	_, err = ann.SetPassword(ctx, &gwv1.SetPasswordRequest{Password: "new password", CurrentPassword: "guessed"})
	h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "current password is wrong")
	_, err = ann.SetPassword(ctx, &gwv1.SetPasswordRequest{Password: "short", CurrentPassword: made.Password})
	h.refused(err, connect.CodeInvalidArgument, ReasonInvalid, "at least 8")
	_, err = ann.SetPassword(ctx, &gwv1.SetPasswordRequest{Name: "root", Password: "new password", CurrentPassword: made.Password})
	h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "needs admin")
	_, err = ann.SetPassword(ctx, &gwv1.SetPasswordRequest{Password: "new password", CurrentPassword: made.Password})
	must(t, err)
	_, err = ann.WhoAmI(ctx, &gwv1.WhoAmIRequest{})
	h.refused(err, connect.CodeUnauthenticated, ReasonUnauthenticated, "")
	in, err = nobody.SignIn(ctx, &gwv1.SignInRequest{User: "ann@example.com", Password: "new password"})
	must(t, err)
	ann = h.accessOver(in.BearerToken)

	// Another role holds from the next call on.
	_, err = admin.SetUserRole(ctx, &gwv1.SetUserRoleRequest{Name: "ann@example.com", Role: "viewer"})
	must(t, err)
	who, err := ann.WhoAmI(ctx, &gwv1.WhoAmIRequest{})
	must(t, err)
	if who.Role != "viewer" || len(who.Namespaces) != 0 {
		t.Errorf("afterwards she is %v", who)
	}
	_, err = admin.DeleteUser(ctx, &gwv1.DeleteUserRequest{Name: "ann@example.com"})
	must(t, err)
	_, err = ann.WhoAmI(ctx, &gwv1.WhoAmIRequest{})
	h.refused(err, connect.CodeUnauthenticated, ReasonUnauthenticated, "")
	_, err = admin.DeleteUser(ctx, &gwv1.DeleteUserRequest{Name: "root"})
	h.refused(err, connect.CodeFailedPrecondition, "last_admin", "make another one first")
	_, err = admin.SetUserRole(ctx, &gwv1.SetUserRoleRequest{Name: "nobody", Role: "viewer"})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "")
	if strings.Contains(h.log.String(), made.Password) || strings.Contains(h.log.String(), "new password") {
		t.Error("a password is in the log")
	}
}

func TestGuessingOnesCurrentPasswordIsThrottled(t *testing.T) {
	h := newHarness(t)
	ann := h.accessOver(h.user("ann", RoleViewer))
	for range maxTries {
		_, err := ann.SetPassword(t.Context(), &gwv1.SetPasswordRequest{Password: "new password", CurrentPassword: "guessed"})
		h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "")
	}
	_, err := ann.SetPassword(t.Context(), &gwv1.SetPasswordRequest{Password: "new password", CurrentPassword: password})
	h.refused(err, connect.CodeResourceExhausted, ReasonTooManyTries, "try again in")
}

func TestAuditIsFilteredPagedAndLimitedToOnesNamespaces(t *testing.T) {
	h := newHarness(t)
	h.apply(api("eu", "a", "/a"), api("us", "b", "/b"))
	h.clock.advance(time.Hour)
	later := h.clock.now()
	for _, ns := range []string{"eu", "us"} {
		h.apply(api(ns, "later", "/later"))
	}
	for n := range 5 {
		h.joinToken([]string{"eu", "us"}[n%2])
	}
	list := func(p *gwv1.ListAuditRequest, namespaces ...string) *gwv1.ListAuditResponse {
		t.Helper()
		a, err := h.hub.Audit.ListAudit(h.as(RoleViewer, namespaces...), p)
		must(t, err)
		for i := 1; i < len(a.Entries); i++ {
			if a.Entries[i].Index >= a.Entries[i-1].Index {
				t.Errorf("entry %d is not older than the one before it", i)
			}
		}
		return a
	}
	all := list(&gwv1.ListAuditRequest{})
	if n := len(all.Entries); n < 9 || all.NextBefore != 0 || all.Entries[n-1].Action != "bootstrap" || !all.Oldest.AsTime().Equal(all.Entries[n-1].At.AsTime()) {
		t.Fatalf("%d entries, the last is %v, the oldest of %v", n, all.Entries[n-1], all.Oldest.AsTime())
	}
	for name, c := range map[string]struct {
		r    *gwv1.ListAuditRequest
		want int
	}{
		"an action":            {&gwv1.ListAuditRequest{Action: "create_join_token"}, 5},
		"an actor":             {&gwv1.ListAuditRequest{Actor: "nobody"}, 0},
		"part of an object":    {&gwv1.ListAuditRequest{Object: "API/lat"}, 2},
		"a namespace":          {&gwv1.ListAuditRequest{Namespace: "eu", Action: "create_join_token"}, 3},
		"since":                {&gwv1.ListAuditRequest{Since: timestamppb.New(later), Action: "apply"}, 2},
		"until":                {&gwv1.ListAuditRequest{Until: timestamppb.New(later), Action: "create_join_token"}, 0},
		"several, all of them": {&gwv1.ListAuditRequest{Namespace: "us", Action: "apply", Object: "later"}, 1},
	} {
		if got := list(c.r); len(got.Entries) != c.want {
			t.Errorf("%s: %d entries, want %d: %v", name, len(got.Entries), c.want, got.Entries)
		}
	}
	var paged []uint64
	for r := (&gwv1.ListAuditRequest{PageSize: 2}); ; {
		a := list(r)
		for _, e := range a.Entries {
			paged = append(paged, e.Index)
		}
		if r.Before = a.NextBefore; r.Before == 0 {
			break
		}
	}
	if len(paged) != len(all.Entries) {
		t.Errorf("by pages of two: %d entries, want %d", len(paged), len(all.Entries))
	}
	for _, e := range list(&gwv1.ListAuditRequest{}, "eu").Entries {
		if e.Namespace != "eu" {
			t.Errorf("who is limited to eu sees %v", e)
		}
	}
	_, err := h.hub.Audit.ListAudit(h.as(RoleViewer, "eu"), &gwv1.ListAuditRequest{Namespace: "us"})
	h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "")
}
