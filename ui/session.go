package ui

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/ui/page"
)

// visitor is who a request is from, and the context to call handlers with on their behalf.
type visitor struct {
	ctx        context.Context
	user, role string
	namespaces []string // that the visitor may act in; none: every one
}

// What a role may do is decided by the handlers; these only keep the pages from offering what would be refused.
func (v *visitor) mayPush() bool   { return v.role != "viewer" }
func (v *visitor) mayRemove() bool { return v.role == "admin" }

// cookieName tells sessions of TLS and plain listeners apart: only the former can have the prefix that binds a cookie to
// its host.
func cookieName(r *http.Request) string {
	if r.TLS != nil {
		return "__Host-gw"
	}
	return "gw"
}

// visitor authenticates a request by its cookie. The error is Unauthenticated if there is no session.
func (k *console) visitor(r *http.Request) (*visitor, error) {
	c, err := r.Cookie(cookieName(r))
	if err != nil || c.Value == "" {
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("not signed in"))
	}
	ctx, user, err := k.Principal(r.Context(), c.Value)
	if err != nil {
		return nil, k.Errors(r.Context(), err)
	}
	who, err := call(k, ctx, k.Sessions.WhoAmI, &gwv1.WhoAmIRequest{})
	if err != nil {
		return nil, err
	}
	return &visitor{ctx: ctx, user: user, role: who.GetRole(), namespaces: who.GetNamespaces()}, nil
}

// signedIn serves a page to people with a session and sends others to the login.
func (k *console) signedIn(h func(http.ResponseWriter, *http.Request, *visitor) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, err := k.visitor(r)
		if err == nil {
			err = h(w, r, v)
		}
		if connect.CodeOf(err) == connect.CodeUnauthenticated && err != nil {
			toLogin(w, r)
			return
		}
		if err != nil {
			k.fail(w, r, v, err)
		}
	})
}

// open serves a page to everybody.
func (k *console) open(h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			k.fail(w, r, nil, err)
		}
	})
}

// toLogin sends a visitor without a session to the login, which comes back to the page asked for. What was to be changed
// is not done on return: only the addresses of pages are kept.
func toLogin(w http.ResponseWriter, r *http.Request) {
	next := "/"
	switch {
	case partial(r):
		if u, err := url.Parse(r.Header.Get("HX-Current-URL")); err == nil {
			next = localPath(u.RequestURI())
		}
	case r.Method == http.MethodGet:
		next = localPath(r.URL.RequestURI())
	}
	target := "/login"
	if next != "/" {
		target += "?" + url.Values{"next": {next}}.Encode()
	}
	if partial(r) {
		w.Header().Set("HX-Redirect", target)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	http.Redirect(w, r, target, http.StatusSeeOther)
}

// partial reports whether a script asked for a part of a page.
func partial(r *http.Request) bool { return r.Header.Get("HX-Request") == "true" }

// localPath returns s if it is a path on this origin, else "/".
func localPath(s string) string {
	u, err := url.Parse(s)
	if err != nil || len(s) > 2048 || u.Scheme != "" || u.Host != "" || u.User != nil ||
		!strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.ContainsAny(s, "\\\r\n\t") {
		return "/"
	}
	return s
}

func (k *console) loginPage(w http.ResponseWriter, r *http.Request) error {
	next := localPath(r.URL.Query().Get("next"))
	if _, err := k.visitor(r); err == nil {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return nil
	}
	return k.showLogin(w, r, http.StatusOK, page.Login{Next: next})
}

func (k *console) showLogin(w http.ResponseWriter, r *http.Request, status int, p page.Login) error {
	p.Cluster, p.Version = k.Cluster, k.Version
	return send(w, r, status, page.LoginPage(p))
}

// login starts a session. Why it was refused is told apart only as far as it helps somebody with the right password.
func (k *console) login(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	p := page.Login{Next: localPath(r.PostFormValue("next")), User: r.PostFormValue("user")}
	password := r.PostFormValue("password")
	if p.User == "" || password == "" || len(p.User) > 256 || len(password) > 1024 {
		p.User, p.Problem = "", page.WrongPassword
		return k.showLogin(w, r, http.StatusUnprocessableEntity, p)
	}
	in, err := call(k, r.Context(), k.Sessions.SignIn, &gwv1.SignInRequest{User: p.User, Password: password})
	switch code := connect.CodeOf(err); {
	case err == nil:
		k.setCookie(w, r, in.GetBearerToken(), in.GetExpiresAt().AsTime())
		http.Redirect(w, r, p.Next, http.StatusSeeOther)
		return nil
	case code == connect.CodeUnauthenticated, code == connect.CodeInvalidArgument, code == connect.CodeNotFound:
		p.Problem = page.WrongPassword
		return k.showLogin(w, r, http.StatusUnprocessableEntity, p)
	case code == connect.CodeResourceExhausted:
		p.Problem = sentence(message(err))
		return k.showLogin(w, r, http.StatusTooManyRequests, p)
	}
	return err
}

// logout ends the session on the hub and in the browser; the latter also if the former fails.
func (k *console) logout(w http.ResponseWriter, r *http.Request) error {
	v, err := k.visitor(r)
	if err == nil {
		_, err = call(k, v.ctx, k.Sessions.SignOut, &gwv1.SignOutRequest{})
	}
	k.setCookie(w, r, "", time.Time{})
	if err != nil && connect.CodeOf(err) != connect.CodeUnauthenticated {
		return err
	}
	http.Redirect(w, r, "/login", http.StatusSeeOther)
	return nil
}

// setCookie hands the bearer token to the browser, or takes it back if it is empty.
func (k *console) setCookie(w http.ResponseWriter, r *http.Request, bearer string, expires time.Time) {
	c := &http.Cookie{
		Name: cookieName(r), Value: bearer, Path: "/", Secure: r.TLS != nil, HttpOnly: true, SameSite: http.SameSiteLaxMode,
		MaxAge: int(expires.Sub(k.Now()).Seconds()),
	}
	if bearer == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}
