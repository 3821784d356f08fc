package rpc

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

func TestAppsAndTokens(t *testing.T) {
	h := newHarness(t)
	app, made := h.app("", "web")
	if app.Namespace != "default" || app.Id == "" || !identity.CheckCredential("gw_", made.Credential) || made.Token.Hint == "" || !strings.HasPrefix(made.Credential, strings.TrimSuffix(made.Token.Hint, "…")) {
		t.Fatalf("got %v, %v", app, made)
	}
	_, err := h.hub.Access.CreateApp(h.as(RoleOperator), &gwv1.CreateAppRequest{App: &gwv1.App{Name: "web"}})
	h.refused(err, connect.CodeAlreadyExists, ReasonAlreadyExists, "web")
	u, err := h.hub.Access.UpdateApp(h.as(RoleOperator), &gwv1.UpdateAppRequest{App: &gwv1.App{Name: "web", Owner: "ann", Targets: []string{"API/a"}}})
	must(t, err)
	if u.App.Id != app.Id || u.App.Owner != "ann" || u.App.Tokens != 1 || u.App.Targets[0] != "API/a" {
		t.Errorf("updated: %v", u.App)
	}
	_, err = h.hub.Access.UpdateApp(h.as(RoleOperator), &gwv1.UpdateAppRequest{App: &gwv1.App{Name: "none"}})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "default/none")
	_, err = h.hub.Access.CreateToken(h.as(RoleOperator), &gwv1.CreateTokenRequest{App: "none"})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "default/none")
	short, err := h.hub.Access.CreateToken(h.as(RoleOperator), &gwv1.CreateTokenRequest{App: "web", Note: "ci", Ttl: durationpb.New(time.Hour)})
	must(t, err)
	if !short.Token.ExpiresAt.AsTime().Equal(h.clock.now().Add(time.Hour)) {
		t.Errorf("expires at %v", short.Token.ExpiresAt.AsTime())
	}
	r, err := h.hub.Access.RevokeToken(h.as(RoleOperator), &gwv1.RevokeTokenRequest{Token: made.Credential})
	must(t, err)
	if r.AccessVersion != h.store.State().Cluster().AccessVersion {
		t.Errorf("access version %d, want %d", r.AccessVersion, h.store.State().Cluster().AccessVersion)
	}
	l, err := h.hub.Access.ListTokens(h.as(RoleViewer), &gwv1.ListTokensRequest{App: "web"})
	must(t, err)
	revoked := map[string]bool{}
	for _, x := range l.Tokens {
		revoked[x.Id] = x.Revoked
	}
	if len(revoked) != 2 || !revoked[made.Token.Id] || revoked[short.Token.Id] {
		t.Errorf("listed %v", l.Tokens)
	}
	_, err = h.hub.Access.RevokeToken(h.as(RoleOperator), &gwv1.RevokeTokenRequest{Token: "gw_secret"})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "no such token")
	if strings.Contains(err.Error(), "gw_secret") {
		t.Error("the error repeats what may be a credential")
	}
	d, err := h.hub.Access.DeleteApp(h.as(RoleOperator), &gwv1.DeleteAppRequest{Name: "web"})
	must(t, err)
	if d.RevokedTokens != 1 {
		t.Errorf("revoked %d, want the one that was left", d.RevokedTokens)
	}
}

func TestARepeatedCallNeverGivesASecretTwice(t *testing.T) {
	h := newHarness(t)
	h.app("", "web")
	once := WithIdempotencyKey(h.as(RoleAdmin), "k")
	for name, call := range map[string]func() error{
		"token": func() error {
			_, err := h.hub.Access.CreateToken(WithIdempotencyKey(once, "k1"), &gwv1.CreateTokenRequest{App: "web"})
			return err
		},
		"join token": func() error {
			_, err := h.hub.Access.CreateJoinToken(WithIdempotencyKey(once, "k2"), &gwv1.CreateJoinTokenRequest{})
			return err
		},
	} {
		must(t, call())
		h.refused(call(), connect.CodeFailedPrecondition, ReasonAlreadyDelivered, "")
		_ = name
	}
	first, err := h.hub.Access.CreateApp(once, &gwv1.CreateAppRequest{App: &gwv1.App{Name: "app"}})
	must(t, err)
	again, err := h.hub.Access.CreateApp(once, &gwv1.CreateAppRequest{App: &gwv1.App{Name: "app"}})
	must(t, err)
	if again.App.Id != first.App.Id {
		t.Errorf("a repeated call made another app: %v, %v", first, again)
	}
}

func TestSecretsAreWriteOnlyAndSealed(t *testing.T) {
	h := newHarness(t)
	const value = "sk-very-secret"
	first, err := h.hub.Access.PutSecret(h.as(RoleAdmin), &gwv1.PutSecretRequest{Name: "key", Value: value})
	must(t, err)
	second, err := h.hub.Access.PutSecret(h.as(RoleAdmin), &gwv1.PutSecretRequest{Name: "key", Value: value + "2"})
	must(t, err)
	if second.Secret.Version <= first.Secret.Version || second.Secret.UpdatedBy != "admin" {
		t.Errorf("got %v after %v", second, first)
	}
	record, _ := h.store.State().Secret("default", "key")
	if strings.Contains(string(record.Sealed), value) {
		t.Error("the log holds the value")
	}
	if opened, err := openSecret(h.sealer, record); err != nil || string(opened) != value+"2" {
		t.Errorf("opened %q, %v", opened, err)
	}
	moved := &gwv1.SecretRecord{Namespace: "eu", Name: "key", Sealed: record.Sealed}
	if _, err := openSecret(h.sealer, moved); err == nil {
		t.Error("a sealed value opens under another name")
	}
	h.apply(llm("", "l", "key"))
	_, err = h.hub.Access.DeleteSecret(h.as(RoleAdmin), &gwv1.DeleteSecretRequest{Name: "key"})
	h.refused(err, connect.CodeFailedPrecondition, "in_use", "key")
	l, err := h.hub.Access.ListSecrets(h.as(RoleViewer), &gwv1.ListSecretsRequest{})
	must(t, err)
	if len(l.Secrets) != 1 || strings.Contains(l.String(), value) {
		t.Errorf("listed %v", l)
	}
	if strings.Contains(h.log.String(), value) {
		t.Error("the value is in the log file")
	}
}

func TestJoinTokensAreForANamespaceAndABound(t *testing.T) {
	h := newHarness(t)
	_, err := h.hub.Access.CreateJoinToken(h.as(RoleAdmin), &gwv1.CreateJoinTokenRequest{Namespace: "global"})
	h.refused(err, connect.CodeInvalidArgument, ReasonInvalid, "global")
	_, err = h.hub.Access.CreateJoinToken(h.as(RoleAdmin), &gwv1.CreateJoinTokenRequest{Namespace: "No Name"})
	h.refused(err, connect.CodeInvalidArgument, ReasonInvalid, "namespace")
	a, err := h.hub.Access.CreateJoinToken(h.as(RoleAdmin), &gwv1.CreateJoinTokenRequest{Labels: map[string]string{"site": "a"}})
	must(t, err)
	if a.JoinToken.MaxUses != 1 || a.JoinToken.Namespace != "default" || a.JoinToken.Role != "edge" || len(a.HubUrls) != 1 ||
		!a.JoinToken.ExpiresAt.AsTime().Equal(h.clock.now().Add(time.Hour)) {
		t.Errorf("got %v", a)
	}
	token, err := identity.ParseJoinToken(a.Credential)
	must(t, err)
	if token.Pin != identity.PinOf(h.ca.Certificate) || token.ID != a.JoinToken.Id {
		t.Errorf("the credential says %v", token)
	}
	l, err := h.hub.Access.ListJoinTokens(h.as(RoleViewer), &gwv1.ListJoinTokensRequest{})
	must(t, err)
	if len(l.JoinTokens) != 1 || l.JoinTokens[0].Labels["site"] != "a" {
		t.Errorf("listed %v", l)
	}
	_, err = h.hub.Access.DeleteJoinToken(h.as(RoleAdmin), &gwv1.DeleteJoinTokenRequest{Id: token.ID})
	must(t, err)
	_, err = h.hub.Access.DeleteJoinToken(h.as(RoleAdmin), &gwv1.DeleteJoinTokenRequest{Id: token.ID})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, token.ID)
}

func TestSignInAndOut(t *testing.T) {
	h := newHarness(t)
	h.user("ann", RoleOperator, "eu")
	in, err := h.hub.Access.SignIn(t.Context(), &gwv1.SignInRequest{User: "ann", Password: password})
	must(t, err)
	if in.Who.User != "ann" || in.Who.Role != "operator" || in.Who.Namespaces[0] != "eu" || !in.ExpiresAt.AsTime().Equal(h.clock.now().Add(24*time.Hour)) {
		t.Errorf("got %v", in)
	}
	p, err := h.hub.Authenticate(t.Context(), in.BearerToken)
	must(t, err)
	w, err := h.hub.Access.WhoAmI(WithPrincipal(t.Context(), p), &gwv1.WhoAmIRequest{})
	if err != nil || w.User != "ann" {
		t.Errorf("who: %v, %v", w, err)
	}
	_, err = h.hub.Access.SignOut(WithPrincipal(t.Context(), p), &gwv1.SignOutRequest{})
	must(t, err)
	_, err = h.hub.Authenticate(t.Context(), in.BearerToken)
	h.refused(err, connect.CodeUnauthenticated, ReasonUnauthenticated, "sign in again")

	in, err = h.hub.Access.SignIn(t.Context(), &gwv1.SignInRequest{User: "ann", Password: password, Ttl: durationpb.New(time.Minute)})
	must(t, err)
	h.clock.advance(time.Minute)
	_, err = h.hub.Authenticate(t.Context(), in.BearerToken)
	h.refused(err, connect.CodeUnauthenticated, ReasonUnauthenticated, "")
}

func TestAWrongPasswordAndAnUnknownUserLookAlike(t *testing.T) {
	h := newHarness(t)
	h.user("ann", RoleViewer)
	_, wrong := h.hub.Access.SignIn(t.Context(), &gwv1.SignInRequest{User: "ann", Password: "wrong"})
	h.refused(wrong, connect.CodeUnauthenticated, ReasonBadCredentials, "")
	_, unknown := h.hub.Access.SignIn(t.Context(), &gwv1.SignInRequest{User: "bob", Password: "wrong"})
	h.refused(unknown, connect.CodeUnauthenticated, ReasonBadCredentials, "")
	if wrong.Error() != unknown.Error() {
		t.Errorf("%q differs from %q", wrong, unknown)
	}
}

func TestSignInIsThrottledByAccountAndAddress(t *testing.T) {
	h := newHarness(t)
	h.user("ann", RoleViewer)
	here := WithAddress(t.Context(), "10.0.0.1:999")
	signIn := func(address, password string) error {
		_, err := h.hub.Access.SignIn(WithAddress(t.Context(), address), &gwv1.SignInRequest{User: "ann", Password: password})
		return err
	}
	for range maxTries {
		h.refused(signIn("10.0.0.1:1", "wrong"), connect.CodeUnauthenticated, ReasonBadCredentials, "")
	}
	_, err := h.hub.Access.SignIn(here, &gwv1.SignInRequest{User: "ann", Password: password})
	h.refused(err, connect.CodeResourceExhausted, ReasonTooManyTries, "try again in 6s")
	must(t, signIn("10.0.0.2:1", password))
	h.clock.advance(tryEvery)
	must(t, signIn("10.0.0.1:2", password))
	h.refused(signIn("10.0.0.1:2", "wrong"), connect.CodeUnauthenticated, ReasonBadCredentials, "") // has all its tries again
}

func TestSignInsOfMadeUpUsersAreThrottledByAddress(t *testing.T) {
	h := newHarness(t)
	h.user("ann", RoleViewer)
	signIn := func(address, user, password string) error {
		_, err := h.hub.Access.SignIn(WithAddress(t.Context(), address), &gwv1.SignInRequest{User: user, Password: password})
		return err
	}
	for i := range maxAddressTries {
		h.refused(signIn("10.0.0.1:1", fmt.Sprint("nobody-", i), "wrong"), connect.CodeUnauthenticated, ReasonBadCredentials, "")
	}
	known := len(h.hub.Access.throttle.since)
	for i := range 100 {
		h.refused(signIn("10.0.0.1:1", fmt.Sprint("other-", i), "wrong"), connect.CodeResourceExhausted, ReasonTooManyTries, "try again in 6s")
	}
	if now := len(h.hub.Access.throttle.since); now != known {
		t.Errorf("refused sign-ins are remembered: %d, then %d", known, now)
	}
	must(t, signIn("10.0.0.2:1", "ann", password))
	h.clock.advance(tryEvery)
	must(t, signIn("10.0.0.1:1", "ann", password))
}

func TestSignInsDoNotPileUp(t *testing.T) {
	h := newHarness(t)
	h.user("ann", RoleViewer)
	in := &gwv1.SignInRequest{User: "ann", Password: password}
	leave, err := h.hub.Access.queue.enter(t.Context())
	must(t, err)
	impatient, cancel := context.WithCancel(t.Context())
	results := make(chan error, maxWaiting)
	for i := range maxWaiting {
		go func() {
			_, err := h.hub.Access.SignIn(WithAddress(impatient, fmt.Sprintf("10.0.1.%d", i)), in)
			results <- err
		}()
	}
	eventually(t, "all wait", func() bool { return len(h.hub.Access.queue.places) == maxWaiting+1 })
	_, err = h.hub.Access.SignIn(WithAddress(t.Context(), "10.0.0.1"), in)
	h.refused(err, connect.CodeResourceExhausted, ReasonTooManyTries, "at this moment")
	cancel()
	for range maxWaiting {
		h.refused(<-results, connect.CodeCanceled, "canceled", "")
	}
	leave()
	_, err = h.hub.Access.SignIn(WithAddress(t.Context(), "10.0.0.1"), in)
	must(t, err)
}

func TestThrottleForgetsWhatItNeedNotKnow(t *testing.T) {
	c := &clock{}
	c.nanos.Store(1)
	th := newThrottle(maxTries, c.now)
	for i := range maxThrottled * 2 {
		th.take(string(rune(i)) + newID())
		if i%1000 == 0 {
			c.advance(tryEvery)
		}
	}
	if len(th.since) > maxThrottled {
		t.Errorf("keeps %d keys", len(th.since))
	}
}

func TestASecretThatCanNotStandInAHeaderIsRefused(t *testing.T) {
	h := newHarness(t)
	for _, value := range []string{"sk-1\r\n", "sk-1\n", " sk-1", "sk\x001"} {
		_, err := h.hub.Access.PutSecret(h.as(RoleAdmin), &gwv1.PutSecretRequest{Name: "openai", Value: value})
		if err == nil || !strings.Contains(h.hub.Error(t.Context(), err).Error(), "HTTP header") {
			t.Errorf("%q: %v, want a refusal that speaks of the HTTP header", value, err)
		}
	}
	_, err := h.hub.Access.PutSecret(h.as(RoleAdmin), &gwv1.PutSecretRequest{Name: "openai", Value: "sk 1"})
	must(t, err)
}
