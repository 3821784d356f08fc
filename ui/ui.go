// Package ui owns the console: its pages, the sessions of people in browsers, and the streams that keep open pages true.
package ui

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"gw/rpc/gwv1"
	"gw/ui/page"
	"gw/ui/static"
)

// Fleet shows the edges. Calls are made with a context from Config.Principal; errors are *connect.Error.
type Fleet interface {
	ListEdges(context.Context, *gwv1.ListEdgesRequest) (*gwv1.ListEdgesResponse, error)
	GetEdge(context.Context, *gwv1.GetEdgeRequest) (*gwv1.GetEdgeResponse, error)
	RemoveEdge(context.Context, *gwv1.RemoveEdgeRequest) (*gwv1.RemoveEdgeResponse, error)
	RevokeEdge(context.Context, *gwv1.RevokeEdgeRequest) (*gwv1.RevokeEdgeResponse, error)
	RetryEdge(context.Context, *gwv1.RetryEdgeRequest) (*gwv1.RetryEdgeResponse, error)
	ListNamespaces(context.Context, *gwv1.ListNamespacesRequest) (*gwv1.ListNamespacesResponse, error)
}

// Releases turns what is saved into what edges run. Calls are made with a context from Config.Principal; errors are
// *connect.Error. The push form answers to those whose ErrorDetail says "changed" or "confirm_removal".
type Releases interface {
	PreviewPush(context.Context, *gwv1.PreviewPushRequest) (*gwv1.PreviewPushResponse, error)
	Push(context.Context, *gwv1.PushRequest) (*gwv1.PushResponse, error)
	ListReleases(context.Context, *gwv1.ListReleasesRequest) (*gwv1.ListReleasesResponse, error)
	Rollback(context.Context, *gwv1.RollbackRequest) (*gwv1.PushResponse, error)
	ListPushes(context.Context, *gwv1.ListPushesRequest) (*gwv1.ListPushesResponse, error)
	GetPush(context.Context, *gwv1.GetPushRequest) (*gwv1.GetPushResponse, error)
	DiffReleases(context.Context, *gwv1.DiffReleasesRequest) (*gwv1.DiffReleasesResponse, error)
	Freeze(context.Context, *gwv1.FreezeRequest) (*gwv1.FreezeResponse, error)
	Unfreeze(context.Context, *gwv1.UnfreezeRequest) (*gwv1.UnfreezeResponse, error)
	ListFreezes(context.Context, *gwv1.ListFreezesRequest) (*gwv1.ListFreezesResponse, error)
}

// Sessions exchanges passwords for bearer tokens. SignIn is called with the bare context of the request and answers a
// wrong user and a wrong password with the same CodeUnauthenticated, too many attempts with CodeResourceExhausted. The
// other two are called with a context from Config.Principal, which says whose session they are about.
type Sessions interface {
	SignIn(context.Context, *gwv1.SignInRequest) (*gwv1.SignInResponse, error)
	SignOut(context.Context, *gwv1.SignOutRequest) (*gwv1.SignOutResponse, error)
	WhoAmI(context.Context, *gwv1.WhoAmIRequest) (*gwv1.WhoAmIResponse, error)
}

// Config is what a console is made of.
type Config struct {
	// Fleet, Releases, Sessions, Audit and Plugins are required.
	Fleet    Fleet
	Releases Releases
	Sessions Sessions
	Audit    Audit
	Plugins  Plugins
	// Principal authenticates a bearer token and returns a context that carries whom it belongs to, and the name. A token
	// that is unknown, ended or expired is answered with CodeUnauthenticated. Required.
	Principal func(ctx context.Context, bearer string) (context.Context, string, error)
	// Wake blocks until something the pages show has changed since revision after, or ctx ends; it returns the revision
	// reached. 0 is before everything. Required.
	Wake func(ctx context.Context, after uint64) (uint64, error)
	// Errors gives an error of any of the above the form the wire would show, a *connect.Error. Nil: they have it.
	Errors func(ctx context.Context, err error) error
	// Remote marks a context with the address a request came from, before anything else is done with it. Nil: contexts
	// are left as they are.
	Remote func(ctx context.Context, address string) context.Context
	// Cluster and Version are shown; either may be empty.
	Cluster, Version string
	// HubURL is where edges reach this cluster, for the command that joins one. Empty: a placeholder is shown.
	HubURL string
	// Logger gets what the pages only show a reference to. Nil: slog.Default.
	Logger *slog.Logger
	// Now tells the time. Nil: time.Now.
	Now func() time.Time
}

// console is what stands behind the handler New returns.
type console struct {
	Config
	streams streams
}

// New returns the console's handler, to be mounted at "/". Streams it serves end with the context of their request, so a
// server that shuts down cancels its base context first. Cookies are those of the listener the request came by: Secure
// under TLS, plain otherwise, so plain listeners belong on loopback only.
func New(c Config) (http.Handler, error) {
	switch {
	case c.Fleet == nil, c.Releases == nil, c.Sessions == nil, c.Audit == nil, c.Plugins == nil:
		return nil, errors.New("console: Fleet, Releases, Sessions, Audit and Plugins are required")
	case c.Principal == nil, c.Wake == nil:
		return nil, errors.New("console: Principal and Wake are required")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Errors == nil {
		c.Errors = func(_ context.Context, err error) error { return err }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	k := &console{Config: c}
	mux := http.NewServeMux()
	for pattern, h := range k.routes() {
		mux.Handle(pattern, h)
	}
	return k.guard(mux), nil
}

// routes is every address of the console. "/" catches the rest.
func (k *console) routes() map[string]http.Handler {
	return map[string]http.Handler{
		"GET " + static.Prefix:    static.Handler(),
		"GET /favicon.ico":        http.RedirectHandler(static.URL("logo.svg"), http.StatusSeeOther),
		"GET /login":              k.open(k.loginPage),
		"POST /login":             k.open(k.login),
		"POST /logout":            k.open(k.logout),
		"GET /{$}":                k.signedIn(k.home),
		"GET /edges":              k.signedIn(k.edges),
		"GET /edges/{id}":         k.signedIn(k.edge),
		"GET /edges/{id}/remove":  k.signedIn(k.removeForm),
		"POST /edges/{id}/remove": k.signedIn(k.remove),
		"GET /edges/{id}/revoke":  k.signedIn(k.revokeForm),
		"POST /edges/{id}/revoke": k.signedIn(k.revoke),
		"POST /edges/{id}/retry":  k.signedIn(k.retry),
		"GET /push":               k.signedIn(k.pushForm),
		"POST /pushes":            k.signedIn(k.push),
		"GET /pushes/{number}":    k.signedIn(k.pushed),
		"GET /rollback":           k.signedIn(k.rollbackForm),
		"POST /rollbacks":         k.signedIn(k.rollback),
		"GET /releases":           k.signedIn(k.releases),
		"GET /diff":               k.signedIn(k.diff),
		"GET /freeze":             k.signedIn(k.freezeForm),
		"POST /freezes":           k.signedIn(k.freeze),
		"POST /unfreeze":          k.signedIn(k.unfreeze),
		"GET /audit":              k.signedIn(k.audit),
		"GET /plugins":            k.signedIn(k.plugins),
		"POST /dead-letters":      k.signedIn(k.deadLetter),
		"GET /live":               http.HandlerFunc(k.live),
		"/":                       k.signedIn(k.nothing),
	}
}

// home sends people where the work is.
func (k *console) home(w http.ResponseWriter, r *http.Request, v *visitor) error {
	http.Redirect(w, r, "/edges", http.StatusSeeOther)
	return nil
}

// nothing answers for addresses that do not exist.
func (k *console) nothing(w http.ResponseWriter, r *http.Request, v *visitor) error {
	return errNoPage
}

// shell is what surrounds a page of a visitor.
func (k *console) shell(v *visitor, title, section string) page.Shell {
	return page.Shell{
		Title: title, Section: section, Rendered: k.Now(), Cluster: k.Cluster, Version: k.Version,
		User: v.user, Role: v.role, CanPush: v.mayPush(), CanRemove: v.mayRemove(),
	}
}
