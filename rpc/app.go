package rpc

import (
	"cmp"
	"context"

	"google.golang.org/protobuf/proto"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// AccessServer keeps what takes effect when saved.
type AccessServer struct {
	*core
	throttle  *throttle // by account and address
	addresses *throttle // failures, by address alone
	queue     *turns    // of those whose passwords are checked
}

// CreateApp makes an app.
func (s *AccessServer) CreateApp(ctx context.Context, r *gwv1.CreateAppRequest) (*gwv1.CreateAppResponse, error) {
	ns := orDefault(r.GetApp().GetNamespace())
	if _, err := admit(ctx, r, RoleOperator, ns); err != nil {
		return nil, err
	}
	if !resource.ValidName(ns) {
		return nil, invalid("app.namespace", ReasonInvalid, "want %s", resource.NameRule)
	}
	app := &gwv1.AppRecord{
		Id: newID(), Namespace: ns, Name: r.App.Name, Owner: r.App.Owner,
		Targets: r.App.Targets, Policies: r.App.Policies, CreatedAt: s.now().UnixNano(),
	}
	st, err := s.putApp(ctx, app, true)
	if err != nil {
		return nil, err
	}
	saved, ok := st.App(ns, r.App.Name)
	if !ok {
		return nil, keyReused()
	}
	return &gwv1.CreateAppResponse{App: shownApp(st, saved)}, nil
}

// UpdateApp replaces an app's owner, policies and targets; its name and namespace stay.
func (s *AccessServer) UpdateApp(ctx context.Context, r *gwv1.UpdateAppRequest) (*gwv1.UpdateAppResponse, error) {
	if _, err := admit(ctx, r, RoleOperator); err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	was, ok := st.App(orDefault(r.App.Namespace), r.App.Name)
	if r.App.Id != "" {
		was, ok = st.AppByID(r.App.Id)
	}
	if !ok {
		return nil, notFound("app", cmp.Or(r.App.Id, orDefault(r.App.Namespace)+"/"+r.App.Name))
	}
	if _, err := allow(ctx, RoleOperator, was.Namespace); err != nil {
		return nil, err
	}
	app := proto.CloneOf(was)
	app.Owner, app.Targets, app.Policies = r.App.Owner, r.App.Targets, r.App.Policies
	if st, err = s.putApp(ctx, app, false); err != nil {
		return nil, err
	}
	return &gwv1.UpdateAppResponse{App: shownApp(st, app)}, nil
}

// putApp saves an app and returns a state that has it.
func (s *AccessServer) putApp(ctx context.Context, app *gwv1.AppRecord, create bool) (*state.State, error) {
	_, err := s.change(ctx, &gwv1.Command{Body: &gwv1.Command_PutApp{PutApp: &gwv1.PutAppRecord{App: app, Create: create}}})
	if err != nil {
		return nil, err
	}
	return s.store.State(), nil
}

// ListApps returns the apps of a namespace, or all that the caller may see.
func (s *AccessServer) ListApps(ctx context.Context, r *gwv1.ListAppsRequest) (*gwv1.ListAppsResponse, error) {
	p, st, err := s.list(ctx, r, r.Namespace)
	if err != nil {
		return nil, err
	}
	answer := &gwv1.ListAppsResponse{}
	for a := range st.Apps(r.Namespace) {
		if p.sees(a.Namespace) {
			answer.Apps = append(answer.Apps, shownApp(st, a))
		}
	}
	return answer, nil
}

// list admits a listing of one namespace, or of all if it is "", and reads the state.
func (s *AccessServer) list(ctx context.Context, r proto.Message, namespace string) (Principal, *state.State, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err == nil && namespace != "" {
		_, err = allow(ctx, RoleViewer, namespace)
	}
	if err != nil {
		return p, nil, err
	}
	st, err := s.read(ctx)
	return p, st, err
}

// DeleteApp deletes an app and revokes its tokens.
func (s *AccessServer) DeleteApp(ctx context.Context, r *gwv1.DeleteAppRequest) (*gwv1.DeleteAppResponse, error) {
	ns := orDefault(r.Namespace)
	if _, err := admit(ctx, r, RoleOperator, ns); err != nil {
		return nil, err
	}
	result, err := s.change(ctx, &gwv1.Command{Body: &gwv1.Command_DeleteApp{DeleteApp: &gwv1.DeleteAppRecord{Namespace: ns, Name: r.Name}}})
	if err != nil {
		return nil, err
	}
	return &gwv1.DeleteAppResponse{RevokedTokens: result.RevokedTokens}, nil
}

func shownApp(st *state.State, a *gwv1.AppRecord) *gwv1.App {
	var tokens uint32
	for t := range st.Tokens(a.Id) {
		if !t.Revoked {
			tokens++
		}
	}
	return &gwv1.App{Id: a.Id, Name: a.Name, Namespace: a.Namespace, Owner: a.Owner,
		Targets: a.Targets, Policies: a.Policies, CreatedAt: stamp(a.CreatedAt), Tokens: tokens}
}
