package state

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// accessChanged makes this command the last change to an app, token or secret. Edges have nothing to do for one that
// only adds what they can't know yet; for others they are told r.
func (x *change) accessChanged(r *gwv1.AccessChangeRecord) {
	x.cluster.AccessVersion, x.result.AccessVersion = x.index, x.index
	if r == nil {
		return
	}
	r.Version, r.At = x.index, x.at
	x.put(tableAccess, r)
	x.totals.accessChanges++
	for r := range upTo[*gwv1.AccessChangeRecord](x.tx, tableAccess, byID, x.totals.accessChanges-maxAccessChanges) {
		x.dropAccessChange(r)
	}
}

func (x *change) dropAccessChange(r *gwv1.AccessChangeRecord) {
	x.drop(tableAccess, r)
	x.totals.accessChanges--
	x.floor = max(x.floor, r.Version)
}

func (x *change) putApp(m *gwv1.PutAppRecord) *gwv1.Refusal {
	if m.GetApp() == nil {
		return invalid("no app")
	}
	app := proto.CloneOf(m.App)
	old, there := one[*gwv1.AppRecord](x.tx, tableApps, byID, join(app.Namespace, app.Name))
	if !m.Create {
		if !there {
			return notFound("app", app.Name)
		}
		if app.Id != "" && app.Id != old.Id {
			return refuse(gwv1.RefusalCode_REFUSAL_CODE_CHANGED, "changed", fmt.Sprintf("app %q is another one by now", shown(app.Name)))
		}
		app.Id, app.CreatedAt = old.Id, old.CreatedAt
	}
	if p := validApp(app); p != "" {
		return invalid(p)
	}
	if m.Create {
		if _, taken := one[*gwv1.AppRecord](x.tx, tableApps, byUID, []byte(app.Id)); there || taken {
			return exists("app", app.Name)
		}
		x.accessChanged(nil)
	} else {
		if proto.Equal(old, app) {
			x.result.AccessVersion = x.cluster.AccessVersion
			return nil
		}
		x.accessChanged(&gwv1.AccessChangeRecord{Change: &gwv1.AccessChangeRecord_ChangedApp{ChangedApp: app.Id}})
	}
	x.put(tableApps, app)
	x.audit("put_app", "app/"+app.Name, app.Namespace)
	return nil
}

// deleteApp deletes an app and its tokens. Edges are told of each token too, so that one whose app an edge never
// learned ends as well.
func (x *change) deleteApp(m *gwv1.DeleteAppRecord) *gwv1.Refusal {
	app, ok := one[*gwv1.AppRecord](x.tx, tableApps, byID, join(m.GetNamespace(), m.GetName()))
	if !ok {
		return notFound("app", m.GetName())
	}
	for _, t := range slices.Collect(list[*gwv1.TokenRecord](x.tx, tableTokens, byApp, terminated(app.Id))) {
		x.drop(tableTokens, t)
		if !t.Revoked {
			x.result.RevokedTokens++
			x.accessChanged(&gwv1.AccessChangeRecord{Change: &gwv1.AccessChangeRecord_RevokedToken{RevokedToken: t.Hash}})
		}
	}
	x.drop(tableApps, app)
	x.accessChanged(&gwv1.AccessChangeRecord{Change: &gwv1.AccessChangeRecord_DeletedApp{DeletedApp: app.Id}})
	x.audit("delete_app", "app/"+app.Name, app.Namespace)
	return nil
}

func (x *change) putToken(m *gwv1.PutTokenRecord) *gwv1.Refusal {
	t := m.GetToken()
	if t == nil {
		return invalid("no token")
	}
	if p := validToken(t); p != "" {
		return invalid(p)
	}
	if t.Revoked {
		return invalid("a new token can't be revoked")
	}
	app, ok := one[*gwv1.AppRecord](x.tx, tableApps, byUID, []byte(t.AppId))
	if !ok {
		return notFound("app with ID", t.AppId)
	}
	_, sameID := one[*gwv1.TokenRecord](x.tx, tableTokens, byID, []byte(t.Id))
	_, sameHash := one[*gwv1.TokenRecord](x.tx, tableTokens, byHash, clip(t.Hash))
	if sameID || sameHash {
		return exists("token", t.Id)
	}
	x.put(tableTokens, t)
	x.accessChanged(nil)
	x.audit("create_token", "token/"+t.Id, app.Namespace)
	return nil
}

func (x *change) revokeToken(m *gwv1.RevokeTokenRecord) *gwv1.Refusal {
	old, ok := one[*gwv1.TokenRecord](x.tx, tableTokens, byID, []byte(m.GetId()))
	if !ok {
		return notFound("token", m.GetId())
	}
	if old.Revoked {
		x.result.AccessVersion = x.cluster.AccessVersion
		return nil
	}
	t := proto.CloneOf(old)
	t.Revoked = true
	x.put(tableTokens, t)
	x.result.RevokedTokens = 1
	x.accessChanged(&gwv1.AccessChangeRecord{Change: &gwv1.AccessChangeRecord_RevokedToken{RevokedToken: t.Hash}})
	namespace := ""
	if app, ok := one[*gwv1.AppRecord](x.tx, tableApps, byUID, []byte(t.AppId)); ok {
		namespace = app.Namespace
	}
	x.audit("revoke_token", "token/"+t.Id, namespace)
	return nil
}

// putSecret saves a value. Its version is the log index: it rises even when the secret was deleted in between.
func (x *change) putSecret(m *gwv1.PutSecretRecord) *gwv1.Refusal {
	if m.GetSecret() == nil {
		return invalid("no secret")
	}
	if p := validSecret(m.Secret); p != "" {
		return invalid(p)
	}
	s := &gwv1.SecretRecord{
		Namespace: m.Secret.Namespace, Name: m.Secret.Name, Sealed: m.Secret.Sealed,
		Version: x.index, UpdatedAt: x.at, UpdatedBy: x.command.Actor,
	}
	x.put(tableSecrets, s)
	x.result.SecretVersion = s.Version
	x.accessChanged(secretChange(s))
	x.audit("put_secret", "secret/"+s.Name, s.Namespace)
	return nil
}

func secretChange(s *gwv1.SecretRecord) *gwv1.AccessChangeRecord {
	return &gwv1.AccessChangeRecord{Change: &gwv1.AccessChangeRecord_ChangedSecret{
		ChangedSecret: &gwv1.SecretName{Namespace: s.Namespace, Name: s.Name},
	}}
}

func (x *change) deleteSecret(m *gwv1.DeleteSecretRecord) *gwv1.Refusal {
	s, ok := one[*gwv1.SecretRecord](x.tx, tableSecrets, byID, join(m.GetNamespace(), m.GetName()))
	if !ok {
		return notFound("secret", m.GetName())
	}
	if user := x.userOfSecret(s); user != nil {
		return refuse(gwv1.RefusalCode_REFUSAL_CODE_PRECONDITION, "in_use",
			fmt.Sprintf("secret %q is in use: %s", s.Name, user.Message), user)
	}
	x.drop(tableSecrets, s)
	x.accessChanged(secretChange(s))
	x.audit("delete_secret", "secret/"+s.Name, s.Namespace)
	return nil
}

// userOfSecret finds a saved resource or a kept release that names the secret, or returns nil. A secret of global
// serves the namespaces that have none of that name themselves; one of a namespace also serves global's resources there
// if global has none of that name.
func (x *change) userOfSecret(s *gwv1.SecretRecord) *gwv1.Violation {
	for r := range list[*gwv1.ResourceRecord](x.tx, tableResources, bySecret, terminated(s.Name)) {
		if x.servesResource(s, r.Namespace) {
			return &gwv1.Violation{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name, Code: "in_use",
				Message: fmt.Sprintf("%s/%s in %s names it", r.Kind, r.Name, r.Namespace)}
		}
	}
	var releases []byte
	if s.Namespace != resource.Global {
		releases = terminated(s.Namespace)
	}
	for r := range list[*Release](x.tx, tableReleases, byID, releases) {
		if _, named := slices.BinarySearch(r.secrets, s.Name); !named {
			continue
		}
		if s.Namespace == r.Namespace || !x.ownSecret(r.Namespace, s.Name) {
			return &gwv1.Violation{Namespace: r.Namespace, Code: "in_use",
				Message: fmt.Sprintf("release %d of %s names it", r.Number, r.Namespace)}
		}
	}
	return nil
}

func (x *change) servesResource(s *gwv1.SecretRecord, namespace string) bool {
	switch {
	case s.Namespace == namespace:
		return true
	case s.Namespace == resource.Global:
		return !x.ownSecret(namespace, s.Name)
	}
	return namespace == resource.Global && !x.ownSecret(resource.Global, s.Name)
}

func (x *change) ownSecret(namespace, name string) bool {
	_, ok := one[*gwv1.SecretRecord](x.tx, tableSecrets, byID, join(namespace, name))
	return ok
}

// putUser makes a user or changes one: what is left empty of a role or a password stays as it is. A new password ends the
// user's sessions.
func (x *change) putUser(m *gwv1.PutUserRecord) *gwv1.Refusal {
	if m.GetUser() == nil {
		return invalid("no user")
	}
	u := proto.CloneOf(m.User)
	old, there := one[*gwv1.UserRecord](x.tx, tableUsers, byID, []byte(u.Name))
	switch {
	case there && m.Create:
		return exists("user", u.Name)
	case !there && m.Update:
		return notFound("user", u.Name)
	case there:
		u.CreatedAt = old.CreatedAt
		if u.Role == "" {
			u.Role, u.Namespaces = old.Role, old.Namespaces
		}
		if u.PasswordHash == "" {
			u.PasswordHash = old.PasswordHash
		} else if u.PasswordHash != old.PasswordHash {
			x.endSessions(u.Name)
		}
	}
	if p := validUser(u); p != "" {
		return invalid(p)
	}
	if there && rules(old) && !rules(u) && x.lastToRule(u.Name) {
		return lastAdmin(u.Name)
	}
	x.put(tableUsers, u)
	x.audit("put_user", "user/"+u.Name, "")
	return nil
}

func (x *change) deleteUser(m *gwv1.DeleteUserRecord) *gwv1.Refusal {
	u, ok := one[*gwv1.UserRecord](x.tx, tableUsers, byID, []byte(m.GetName()))
	if !ok {
		return notFound("user", m.GetName())
	}
	if rules(u) && x.lastToRule(u.Name) {
		return lastAdmin(u.Name)
	}
	x.drop(tableUsers, u)
	x.endSessions(u.Name)
	x.audit("delete_user", "user/"+u.Name, "")
	return nil
}

// rules reports whether a user may do everything everywhere.
func rules(u *gwv1.UserRecord) bool { return u.Role == "admin" && len(u.Namespaces) == 0 }

// lastToRule reports whether nobody else may do everything: without such a user the cluster can't be administered.
func (x *change) lastToRule(name string) bool {
	for u := range list[*gwv1.UserRecord](x.tx, tableUsers, byID, nil) {
		if u.Name != name && rules(u) {
			return false
		}
	}
	return true
}

func lastAdmin(name string) *gwv1.Refusal {
	return refuse(gwv1.RefusalCode_REFUSAL_CODE_PRECONDITION, "last_admin",
		fmt.Sprintf("%s is the last admin of every namespace; make another one first", name))
}

func (x *change) endSessions(user string) {
	for _, s := range slices.Collect(list[*gwv1.SessionRecord](x.tx, tableSessions, byID, nil)) {
		if s.User == user {
			x.drop(tableSessions, s)
		}
	}
}

func (x *change) putSession(m *gwv1.PutSessionRecord) *gwv1.Refusal {
	s := m.GetSession()
	if s == nil {
		return invalid("no session")
	}
	if p := validSession(s); p != "" {
		return invalid(p)
	}
	if s.ExpiresAt <= x.command.ProposedAt {
		return invalid("a session must end in the future")
	}
	if _, ok := one[*gwv1.UserRecord](x.tx, tableUsers, byID, []byte(s.User)); !ok {
		return notFound("user", s.User)
	}
	if _, ok := one[*gwv1.SessionRecord](x.tx, tableSessions, byID, clip(s.TokenHash)); ok {
		return exists("session of", s.User)
	}
	ended := oldest(x.tx, tableSessions, byTime, func(s *gwv1.SessionRecord) bool { return s.ExpiresAt <= x.at })
	for _, e := range ended {
		x.drop(tableSessions, e)
	}
	x.put(tableSessions, s)
	x.audit("sign_in", "user/"+s.User, "")
	return nil
}

// deleteSession ends a session; one that is gone already is no error.
func (x *change) deleteSession(m *gwv1.DeleteSessionRecord) *gwv1.Refusal {
	s, ok := one[*gwv1.SessionRecord](x.tx, tableSessions, byID, clip(m.GetTokenHash()))
	if !ok {
		return nil
	}
	x.drop(tableSessions, s)
	x.audit("sign_out", "user/"+s.User, "")
	return nil
}
