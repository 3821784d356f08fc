package rpc

import (
	"context"
	"fmt"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"

	"gw/node/fleet"
	"gw/rpc/gwv1"
)

var certificateNone fleet.Certificate

// call is a method of an admin service.
type call struct {
	least Role // who may
	do    func(ctx context.Context, h *Hub) error
}

func method[Q, A any](least Role, m func(*Hub) func(context.Context, *Q) (*A, error), r *Q) call {
	return call{least, func(ctx context.Context, h *Hub) error {
		_, err := m(h)(ctx, r)
		return err
	}}
}

// calls is every method of every admin service, with a request for the namespace "eu".
var calls = map[string]call{
	"ConfigService/ApplyResources": method(RoleOperator, func(h *Hub) func(context.Context, *gwv1.ApplyResourcesRequest) (*gwv1.ApplyResourcesResponse, error) {
		return h.Config.ApplyResources
	}, &gwv1.ApplyResourcesRequest{PruneNamespaces: []string{"eu"}, DryRun: true}),
	"ConfigService/ListResources": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.ListResourcesRequest) (*gwv1.ListResourcesResponse, error) {
		return h.Config.ListResources
	}, &gwv1.ListResourcesRequest{Namespace: "eu"}),
	"ConfigService/GetResource": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.GetResourceRequest) (*gwv1.GetResourceResponse, error) {
		return h.Config.GetResource
	}, &gwv1.GetResourceRequest{Namespace: "eu", Kind: "API", Name: "none"}),
	"ConfigService/DeleteResources": method(RoleOperator, func(h *Hub) func(context.Context, *gwv1.DeleteResourcesRequest) (*gwv1.DeleteResourcesResponse, error) {
		return h.Config.DeleteResources
	}, &gwv1.DeleteResourcesRequest{Keys: []*gwv1.ResourceKey{{Namespace: "eu", Kind: "API", Name: "none"}}}),
	"ReleaseService/PreviewPush": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.PreviewPushRequest) (*gwv1.PreviewPushResponse, error) {
		return h.Releases.PreviewPush
	}, &gwv1.PreviewPushRequest{Scope: scope("eu")}),
	"ReleaseService/Push": method(RoleOperator, func(h *Hub) func(context.Context, *gwv1.PushRequest) (*gwv1.PushResponse, error) {
		return h.Releases.Push
	}, &gwv1.PushRequest{Scope: scope("eu")}),
	"ReleaseService/WatchPush": {RoleViewer, func(ctx context.Context, h *Hub) error {
		return h.Releases.FollowPush(ctx, &gwv1.WatchPushRequest{Number: 1}, func(*gwv1.WatchPushResponse) error { return nil })
	}},
	"ReleaseService/ListReleases": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.ListReleasesRequest) (*gwv1.ListReleasesResponse, error) {
		return h.Releases.ListReleases
	}, &gwv1.ListReleasesRequest{Namespace: "eu"}),
	"ReleaseService/Rollback": method(RoleOperator, func(h *Hub) func(context.Context, *gwv1.RollbackRequest) (*gwv1.PushResponse, error) {
		return h.Releases.Rollback
	}, &gwv1.RollbackRequest{Scope: scope("eu")}),
	"ReleaseService/ListPushes": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.ListPushesRequest) (*gwv1.ListPushesResponse, error) {
		return h.Releases.ListPushes
	}, &gwv1.ListPushesRequest{Namespace: "eu"}),
	"ReleaseService/GetPush": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.GetPushRequest) (*gwv1.GetPushResponse, error) {
		return h.Releases.GetPush
	}, &gwv1.GetPushRequest{Number: 9999}),
	"ReleaseService/DiffReleases": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.DiffReleasesRequest) (*gwv1.DiffReleasesResponse, error) {
		return h.Releases.DiffReleases
	}, &gwv1.DiffReleasesRequest{Namespace: "eu"}),
	"ReleaseService/Freeze": method(RoleOperator, func(h *Hub) func(context.Context, *gwv1.FreezeRequest) (*gwv1.FreezeResponse, error) {
		return h.Releases.Freeze
	}, &gwv1.FreezeRequest{Scope: scope("eu"), Reason: "a test"}),
	"ReleaseService/Unfreeze": method(RoleOperator, func(h *Hub) func(context.Context, *gwv1.UnfreezeRequest) (*gwv1.UnfreezeResponse, error) {
		return h.Releases.Unfreeze
	}, &gwv1.UnfreezeRequest{Scope: scope("eu")}),
	"ReleaseService/ListFreezes": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.ListFreezesRequest) (*gwv1.ListFreezesResponse, error) {
		return h.Releases.ListFreezes
	}, &gwv1.ListFreezesRequest{}),
	"FleetService/ListEdges": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.ListEdgesRequest) (*gwv1.ListEdgesResponse, error) {
		return h.Fleet.ListEdges
	}, &gwv1.ListEdgesRequest{Namespace: "eu"}),
	"FleetService/GetEdge": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.GetEdgeRequest) (*gwv1.GetEdgeResponse, error) {
		return h.Fleet.GetEdge
	}, &gwv1.GetEdgeRequest{Id: "none"}),
	"FleetService/RemoveEdge": method(RoleAdmin, func(h *Hub) func(context.Context, *gwv1.RemoveEdgeRequest) (*gwv1.RemoveEdgeResponse, error) {
		return h.Fleet.RemoveEdge
	}, &gwv1.RemoveEdgeRequest{Id: "none"}),
	"FleetService/RevokeEdge": method(RoleAdmin, func(h *Hub) func(context.Context, *gwv1.RevokeEdgeRequest) (*gwv1.RevokeEdgeResponse, error) {
		return h.Fleet.RevokeEdge
	}, &gwv1.RevokeEdgeRequest{Id: "none"}),
	"FleetService/RetryEdge": method(RoleOperator, func(h *Hub) func(context.Context, *gwv1.RetryEdgeRequest) (*gwv1.RetryEdgeResponse, error) {
		return h.Fleet.RetryEdge
	}, &gwv1.RetryEdgeRequest{Id: "none"}),
	"FleetService/SetEdgeLabels": method(RoleAdmin, func(h *Hub) func(context.Context, *gwv1.SetEdgeLabelsRequest) (*gwv1.SetEdgeLabelsResponse, error) {
		return h.Fleet.SetEdgeLabels
	}, &gwv1.SetEdgeLabelsRequest{Id: "none"}),
	"FleetService/ListNamespaces": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.ListNamespacesRequest) (*gwv1.ListNamespacesResponse, error) {
		return h.Fleet.ListNamespaces
	}, &gwv1.ListNamespacesRequest{}),
	"AccessService/CreateApp": method(RoleOperator, func(h *Hub) func(context.Context, *gwv1.CreateAppRequest) (*gwv1.CreateAppResponse, error) {
		return h.Access.CreateApp
	}, &gwv1.CreateAppRequest{App: &gwv1.App{Namespace: "eu", Name: "there"}}),
	"AccessService/UpdateApp": method(RoleOperator, func(h *Hub) func(context.Context, *gwv1.UpdateAppRequest) (*gwv1.UpdateAppResponse, error) {
		return h.Access.UpdateApp
	}, &gwv1.UpdateAppRequest{App: &gwv1.App{Namespace: "eu", Name: "there"}}),
	"AccessService/ListApps": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.ListAppsRequest) (*gwv1.ListAppsResponse, error) {
		return h.Access.ListApps
	}, &gwv1.ListAppsRequest{Namespace: "eu"}),
	"AccessService/DeleteApp": method(RoleOperator, func(h *Hub) func(context.Context, *gwv1.DeleteAppRequest) (*gwv1.DeleteAppResponse, error) {
		return h.Access.DeleteApp
	}, &gwv1.DeleteAppRequest{Namespace: "eu", Name: "none"}),
	"AccessService/CreateToken": method(RoleOperator, func(h *Hub) func(context.Context, *gwv1.CreateTokenRequest) (*gwv1.CreateTokenResponse, error) {
		return h.Access.CreateToken
	}, &gwv1.CreateTokenRequest{Namespace: "eu", App: "there"}),
	"AccessService/ListTokens": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.ListTokensRequest) (*gwv1.ListTokensResponse, error) {
		return h.Access.ListTokens
	}, &gwv1.ListTokensRequest{Namespace: "eu"}),
	"AccessService/RevokeToken": method(RoleOperator, func(h *Hub) func(context.Context, *gwv1.RevokeTokenRequest) (*gwv1.RevokeTokenResponse, error) {
		return h.Access.RevokeToken
	}, &gwv1.RevokeTokenRequest{Token: "eu-token"}),
	"AccessService/PutSecret": method(RoleAdmin, func(h *Hub) func(context.Context, *gwv1.PutSecretRequest) (*gwv1.PutSecretResponse, error) {
		return h.Access.PutSecret
	}, &gwv1.PutSecretRequest{Namespace: "eu", Name: "k", Value: "v"}),
	"AccessService/ListSecrets": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.ListSecretsRequest) (*gwv1.ListSecretsResponse, error) {
		return h.Access.ListSecrets
	}, &gwv1.ListSecretsRequest{Namespace: "eu"}),
	"AccessService/DeleteSecret": method(RoleAdmin, func(h *Hub) func(context.Context, *gwv1.DeleteSecretRequest) (*gwv1.DeleteSecretResponse, error) {
		return h.Access.DeleteSecret
	}, &gwv1.DeleteSecretRequest{Namespace: "eu", Name: "none"}),
	"AccessService/CreateJoinToken": method(RoleAdmin, func(h *Hub) func(context.Context, *gwv1.CreateJoinTokenRequest) (*gwv1.CreateJoinTokenResponse, error) {
		return h.Access.CreateJoinToken
	}, &gwv1.CreateJoinTokenRequest{Namespace: "eu"}),
	"AccessService/ListJoinTokens": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.ListJoinTokensRequest) (*gwv1.ListJoinTokensResponse, error) {
		return h.Access.ListJoinTokens
	}, &gwv1.ListJoinTokensRequest{}),
	"AccessService/DeleteJoinToken": method(RoleAdmin, func(h *Hub) func(context.Context, *gwv1.DeleteJoinTokenRequest) (*gwv1.DeleteJoinTokenResponse, error) {
		return h.Access.DeleteJoinToken
	}, &gwv1.DeleteJoinTokenRequest{Id: "none"}),
	"AccessService/ListUsers": method(RoleAdmin, func(h *Hub) func(context.Context, *gwv1.ListUsersRequest) (*gwv1.ListUsersResponse, error) {
		return h.Access.ListUsers
	}, &gwv1.ListUsersRequest{}),
	"AccessService/CreateUser": method(RoleAdmin, func(h *Hub) func(context.Context, *gwv1.CreateUserRequest) (*gwv1.CreateUserResponse, error) {
		return h.Access.CreateUser
	}, &gwv1.CreateUserRequest{Name: "new", Role: "viewer"}),
	"AccessService/SetUserRole": method(RoleAdmin, func(h *Hub) func(context.Context, *gwv1.SetUserRoleRequest) (*gwv1.SetUserRoleResponse, error) {
		return h.Access.SetUserRole
	}, &gwv1.SetUserRoleRequest{Name: "none", Role: "viewer"}),
	"AccessService/SetPassword": method(RoleAdmin, func(h *Hub) func(context.Context, *gwv1.SetPasswordRequest) (*gwv1.SetPasswordResponse, error) {
		return h.Access.SetPassword
	}, &gwv1.SetPasswordRequest{Name: "none", Password: "long enough"}),
	"AccessService/DeleteUser": method(RoleAdmin, func(h *Hub) func(context.Context, *gwv1.DeleteUserRequest) (*gwv1.DeleteUserResponse, error) {
		return h.Access.DeleteUser
	}, &gwv1.DeleteUserRequest{Name: "none"}),
	"AuditService/ListAudit": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.ListAuditRequest) (*gwv1.ListAuditResponse, error) {
		return h.Audit.ListAudit
	}, &gwv1.ListAuditRequest{Namespace: "eu"}),
	"AccessService/SignOut": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.SignOutRequest) (*gwv1.SignOutResponse, error) {
		return h.Access.SignOut
	}, &gwv1.SignOutRequest{}),
	"AccessService/WhoAmI": method(RoleViewer, func(h *Hub) func(context.Context, *gwv1.WhoAmIRequest) (*gwv1.WhoAmIResponse, error) {
		return h.Access.WhoAmI
	}, &gwv1.WhoAmIRequest{}),
}

// reason is the stable word of an error, "" for none.
func reason(t *testing.T, h *Hub, err error) string {
	if err == nil {
		return ""
	}
	var e *connect.Error
	if !isWire(h.Error(t.Context(), err), &e) {
		t.Fatalf("%v has no form for the wire", err)
	}
	return detailOf(t, e).Reason
}

func TestEveryMethodAsksForARole(t *testing.T) {
	h := newHarness(t)
	h.app("eu", "there")
	h.propose(&gwv1.Command{Body: &gwv1.Command_PutToken{PutToken: &gwv1.PutTokenRecord{Token: &gwv1.TokenRecord{
		Id: "eu-token", Hash: make([]byte, 32), AppId: firstApp(h).Id}}}})
	descriptors := map[string]bool{}
	for _, services := range allServices() {
		for i := range services.Len() {
			s := services.Get(i)
			for j := range s.Methods().Len() {
				name := fmt.Sprintf("%s/%s", s.Name(), s.Methods().Get(j).Name())
				descriptors[name] = true
				if _, ok := calls[name]; !ok && name != "AccessService/SignIn" {
					t.Errorf("%s has no row in the matrix", name)
				}
			}
		}
	}
	for name, c := range calls {
		if !descriptors[name] {
			t.Errorf("there is no method %s", name)
		}
		if got := reason(t, h.hub, c.do(t.Context(), h.hub)); got != ReasonUnauthenticated {
			t.Errorf("%s by nobody: %q", name, got)
		}
		for role := RoleViewer; role <= RoleAdmin; role++ {
			got := reason(t, h.hub, c.do(h.as(role), h.hub))
			if refused := got == ReasonForbidden; refused != (role < c.least) {
				t.Errorf("%s by %s: %q", name, role, got)
			}
		}
	}
}

func TestANamespaceThatIsNotOnesOwnIsRefused(t *testing.T) {
	h := newHarness(t)
	h.app("eu", "there")
	h.propose(&gwv1.Command{Body: &gwv1.Command_PutToken{PutToken: &gwv1.PutTokenRecord{Token: &gwv1.TokenRecord{
		Id: "eu-token", Hash: make([]byte, 32), AppId: firstApp(h).Id}}}})
	anywhere := map[string]bool{ // answered with what the caller may see, or about no namespace
		"FleetService/ListNamespaces": true, "ReleaseService/ListFreezes": true, "AccessService/ListJoinTokens": true, "AccessService/SignOut": true, "AccessService/WhoAmI": true,
	}
	hidden := map[string]bool{ // as if it weren't there
		"ReleaseService/WatchPush": true, "ReleaseService/GetPush": true, "FleetService/GetEdge": true, "FleetService/RemoveEdge": true, "AccessService/DeleteJoinToken": true,
		"FleetService/RevokeEdge": true, "FleetService/RetryEdge": true, "FleetService/SetEdgeLabels": true,
	}
	users := map[string]bool{"AccessService/ListUsers": true, "AccessService/CreateUser": true, "AccessService/SetUserRole": true,
		"AccessService/SetPassword": true, "AccessService/DeleteUser": true}
	for name, c := range calls {
		got := reason(t, h.hub, c.do(h.as(RoleAdmin, "us"), h.hub))
		switch {
		case anywhere[name]:
			if got == ReasonForbidden {
				t.Errorf("%s: %q", name, got)
			}
		case hidden[name]:
			if got != ReasonNotFound {
				t.Errorf("%s: %q, want it not to be found", name, got)
			}
		case got != ReasonForbidden:
			t.Errorf("%s on eu by an admin of us: %q", name, got)
		}
		// Users belong to no namespace.
		if got := reason(t, h.hub, c.do(h.as(RoleAdmin, "eu"), h.hub)); got == ReasonForbidden != users[name] {
			t.Errorf("%s on eu by an admin of eu: %q", name, got)
		}
	}
}

func TestListsShowWhatTheCallerMaySee(t *testing.T) {
	h := newHarness(t)
	h.apply(api("eu", "e", "/e"), api("us", "u", "/u"), api("global", "g", "/g"))
	h.push()
	h.app("eu", "e")
	h.app("us", "u")
	h.enroll("eu", "e").beat(t, nil)
	h.enroll("us", "u").beat(t, nil)
	ctx := h.as(RoleViewer, "eu")
	resources, err := h.hub.Config.ListResources(ctx, &gwv1.ListResourcesRequest{})
	must(t, err)
	releases, err := h.hub.Releases.ListReleases(ctx, &gwv1.ListReleasesRequest{})
	must(t, err)
	edges, err := h.hub.Fleet.ListEdges(ctx, &gwv1.ListEdgesRequest{})
	must(t, err)
	apps, err := h.hub.Access.ListApps(ctx, &gwv1.ListAppsRequest{})
	must(t, err)
	tokens, err := h.hub.Access.ListTokens(ctx, &gwv1.ListTokensRequest{})
	must(t, err)
	joins, err := h.hub.Access.ListJoinTokens(ctx, &gwv1.ListJoinTokensRequest{})
	must(t, err)
	if len(resources.Resources) != 2 || len(releases.Releases) != 1 || len(edges.Edges) != 1 || edges.Summary.Edges != 1 || len(apps.Apps) != 1 || len(tokens.Tokens) != 1 || len(joins.JoinTokens) != 1 {
		t.Errorf("got %v %v %v %v %v %v", resources, releases, edges, apps, tokens, joins)
	}
	_, err = h.hub.Fleet.GetEdge(ctx, &gwv1.GetEdgeRequest{Id: "u"})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "")
	// A part of all is not all, and global is everyone's.
	_, err = h.hub.Releases.Push(h.as(RoleOperator, "eu"), &gwv1.PushRequest{})
	h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "every namespace")
	_, err = h.hub.Config.ApplyResources(h.as(RoleOperator, "eu"), &gwv1.ApplyResourcesRequest{Resources: []*gwv1.Resource{api("global", "g", "/g2")}})
	h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "global")
}

func firstApp(h *harness) *gwv1.AppRecord {
	for a := range h.store.State().Apps("") {
		return a
	}
	h.t.Fatal("there is no app")
	return nil
}

func allServices() []protoreflect.ServiceDescriptors {
	return []protoreflect.ServiceDescriptors{
		gwv1.File_gw_v1_config_proto.Services(), gwv1.File_gw_v1_release_proto.Services(),
		gwv1.File_gw_v1_fleet_proto.Services(), gwv1.File_gw_v1_access_proto.Services(),
		gwv1.File_gw_v1_audit_proto.Services(),
	}
}
