package ui

import (
	"compress/gzip"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func wantHeaders(t testing.TB, w *httptest.ResponseRecorder) {
	t.Helper()
	for name, want := range map[string]string{
		"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestHeadersStandOnEveryRoute(t *testing.T) {
	h := newHub().fleetOf(2).pushable()
	handler := h.handler(t)
	console := &console{Config: Config{}}
	for pattern := range console.routes() {
		method, path, ok := strings.Cut(pattern, " ")
		if !ok {
			method, path = http.MethodGet, pattern
		}
		path = strings.NewReplacer("{$}", "", "{id}", "edge-ams3-000", "{number}", "43").Replace(path)
		for _, cookie := range []*http.Cookie{nil, h.session(t, "viewer")} {
			r := httptest.NewRequest(method, path, nil)
			if path == "/live" {
				ctx, cancel := contextThatEnds(t)
				defer cancel()
				r = r.WithContext(ctx)
			}
			if cookie != nil {
				r.AddCookie(cookie)
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			wantHeaders(t, w)
			if w.Code >= 500 {
				t.Errorf("%s: status %d", pattern, w.Code)
			}
		}
	}
	r := httptest.NewRequest(http.MethodPost, "/logout", nil)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	wantHeaders(t, w)
}

func TestSignInReturnsToThePageAskedFor(t *testing.T) {
	h := newHub().fleetOf(2)
	handler := h.handler(t)
	w := do(handler, nil, "/edges?q=a&sort=-id")
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/login?next=%2Fedges%3Fq%3Da%26sort%3D-id" {
		t.Fatalf("without a session: status %d to %s", w.Code, w.Header().Get("Location"))
	}
	d := parse(t, do(handler, nil, w.Header().Get("Location")).Body.String())
	next := attr(d.one("input", "name=next"), "value")
	w = do(handler, nil, "/login", "user=admin", "password=right", "next="+url.QueryEscape(next))
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/edges?q=a&sort=-id" {
		t.Fatalf("after signing in: status %d to %s", w.Code, w.Header().Get("Location"))
	}
	c := w.Result().Cookies()[0]
	if c.Name != "gw" || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Secure || c.Path != "/" || c.MaxAge < 86_000 || c.MaxAge > 86_400 {
		t.Errorf("cookie %+v", c)
	}
	if w := do(handler, c, "/edges"); w.Code != http.StatusOK {
		t.Errorf("with the cookie: status %d", w.Code)
	}
	if w := do(handler, c, "/login?next=/releases"); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/releases" {
		t.Errorf("login while signed in: status %d", w.Code)
	}
	w = do(handler, c, "/logout", "")
	if gone := w.Result().Cookies()[0]; w.Code != http.StatusSeeOther || gone.MaxAge != -1 || gone.Value != "" {
		t.Errorf("signing out: status %d, cookie %+v", w.Code, gone)
	}
	if w := do(handler, c, "/edges"); w.Code != http.StatusSeeOther {
		t.Errorf("the ended session still opens pages: status %d", w.Code)
	}
}

func TestNextStaysOnThisOrigin(t *testing.T) {
	for in, want := range map[string]string{
		"/edges?q=1": "/edges?q=1", "": "/", "//evil.example": "/", "https://evil.example/": "/", `/\evil.example`: "/",
		"javascript:alert(1)": "/", "edges": "/", "/a\r\nSet-Cookie: x": "/", "/\t/evil": "/", "/" + strings.Repeat("a", 3000): "/", "/%zz": "/",
	} {
		if got := localPath(in); got != want {
			t.Errorf("localPath(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCookieIsBoundToTheHostUnderTLS(t *testing.T) {
	h := newHub().fleetOf(1)
	handler := h.handler(t)
	r := httptest.NewRequest(http.MethodPost, "https://hub/login", strings.NewReader("user=viewer&password=right"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.TLS = &tls.ConnectionState{}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	c := w.Result().Cookies()[0]
	if c.Name != "__Host-gw" || !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" {
		t.Errorf("cookie %+v", c)
	}
	r = httptest.NewRequest(http.MethodGet, "https://hub/edges", nil)
	r.TLS = &tls.ConnectionState{}
	r.AddCookie(&http.Cookie{Name: "gw", Value: c.Value})
	w = httptest.NewRecorder()
	if handler.ServeHTTP(w, r); w.Code != http.StatusSeeOther {
		t.Errorf("a cookie without the prefix opens a page under TLS: status %d", w.Code)
	}
}

func TestRefusedSignInTellsNothing(t *testing.T) {
	h := newHub()
	handler := h.handler(t)
	var bodies []string
	for _, form := range []string{"user=admin&password=wrong", "user=nobody&password=wrong", "user=nobody&password=right"} {
		w := do(handler, nil, "/login", form)
		if w.Code != http.StatusUnprocessableEntity || len(w.Result().Cookies()) != 0 {
			t.Errorf("%s: status %d, cookies %v", form, w.Code, w.Result().Cookies())
		}
		user, _ := url.ParseQuery(form)
		bodies = append(bodies, strings.ReplaceAll(w.Body.String(), user.Get("user"), "USER"))
	}
	if bodies[0] != bodies[1] || bodies[1] != bodies[2] {
		t.Error("the pages for a wrong user and a wrong password differ")
	}
	for _, form := range []string{"user=&password=", "user=admin&password=", "user=" + strings.Repeat("x", 300) + "&password=x", "user=x&password=" + strings.Repeat("x", 1025)} {
		if w := do(handler, nil, "/login", form); w.Code != http.StatusUnprocessableEntity {
			t.Errorf("%.30s: status %d", form, w.Code)
		}
	}
	h.throttle = true
	w := do(handler, nil, "/login", "user=admin", "password=right")
	if w.Code != http.StatusTooManyRequests {
		t.Errorf("throttled: status %d", w.Code)
	}
	parse(t, w.Body.String()).wantText("Too many tries to sign in; try again in 27 s.")
	if w := do(handler, nil, "/login", "user="+strings.Repeat("x", maxForm)); w.Code != http.StatusBadRequest {
		t.Errorf("a form beyond the limit: status %d", w.Code)
	}
}

func TestOtherSitesCannotChangeAnything(t *testing.T) {
	for _, c := range []struct {
		site, origin string
		want         int
	}{
		{"cross-site", "", 403}, {"same-site", "", 403}, {"", "http://evil.example", 403}, {"", "null", 403},
		{"same-origin", "", 303}, {"none", "", 303}, {"", "http://example.com", 303}, {"", "", 303},
	} {
		h := newHub().fleetOf(2).pushable()
		handler, cookie := h.handler(t), h.session(t, "admin")
		for _, post := range []string{"/pushes", "/rollbacks", "/freezes", "/unfreeze", "/edges/edge-ams3-000/retry", "/edges/edge-ams3-000/revoke", "/edges/edge-ams3-000/remove", "/logout"} {
			r := httptest.NewRequest(http.MethodPost, post, strings.NewReader("scope=all&base=base-1&shown=&confirm=edge-ams3-000&reason=x"))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if c.site != "" {
				r.Header.Set("Sec-Fetch-Site", c.site)
			}
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			r.AddCookie(cookie)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if w.Code != c.want {
				t.Errorf("POST %s, site %q, origin %q: status %d, want %d", post, c.site, c.origin, w.Code, c.want)
			}
		}
		if refused := c.want == 403; refused != (len(h.edges) == 2) || refused != (len(h.pushed) == 0) || refused != (len(h.sessions) == 1) {
			t.Errorf("site %q, origin %q: %d edges, %d pushes, %d sessions", c.site, c.origin, len(h.edges), len(h.pushed), len(h.sessions))
		}
	}
}

func TestGetChangesNothing(t *testing.T) {
	h := newHub().fleetOf(2).pushable()
	handler, cookie := h.handler(t), h.session(t, "admin")
	for _, target := range []string{"/logout", "/pushes?scope=all&base=base-1&shown=", "/edges/edge-ams3-000/remove?confirm=edge-ams3-000"} {
		do(handler, cookie, target)
	}
	if len(h.edges) != 2 || len(h.pushed) != 0 || len(h.sessions) != 1 {
		t.Errorf("%d edges, %d pushes, %d sessions", len(h.edges), len(h.pushed), len(h.sessions))
	}
}

func TestWhatWasShownIsWhatIsPushed(t *testing.T) {
	h := newHub().fleetOf(2).pushable()
	handler, cookie := h.handler(t), h.session(t, "operator")
	d := parse(t, do(handler, cookie, "/push?scope=one&ns=default").Body.String())
	form := url.Values{"scope": {"one"}, "ns": {"default"}, "note": {"why"}}
	for _, hidden := range []string{"base", "shown"} {
		form.Set(hidden, attr(d.one("input", "name="+hidden), "value"))
	}
	w := do(handler, cookie, "/pushes", form.Encode())
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/pushes/43" {
		t.Fatalf("status %d to %q", w.Code, w.Header().Get("Location"))
	}
	if p := h.pushed[0]; p.Base != "base-1" || p.Note != "why" || len(p.Scope.Namespaces) != 1 || p.Scope.Namespaces[0] != "default" || p.ConfirmRemoval {
		t.Errorf("pushed %v", p)
	}
	form.Set("scope", "all")
	if w := do(handler, cookie, "/pushes", form.Encode()); w.Code != http.StatusConflict || len(h.pushed) != 1 {
		t.Errorf("a scope that was not shown: status %d, %d pushes", w.Code, len(h.pushed))
	}
	form.Set("shown", "")
	form.Del("base")
	if w := do(handler, cookie, "/pushes", form.Encode()); w.Code != http.StatusConflict || len(h.pushed) != 1 {
		t.Errorf("a push without a base: status %d, %d pushes", w.Code, len(h.pushed))
	}
	form.Set("base", "base-1")
	form.Set("confirm", "yes")
	if w := do(handler, cookie, "/pushes", form.Encode()); w.Code != http.StatusSeeOther || !h.pushed[1].ConfirmRemoval || len(h.pushed[1].Scope.Namespaces) != 0 {
		t.Errorf("a confirmed push of all: status %d, %v", w.Code, h.pushed)
	}
}

func TestRevokingWantsTheNameAndRetryingDoesNot(t *testing.T) {
	h := newHub().fleetOf(4)
	handler, cookie, operator := h.handler(t), h.session(t, "admin"), h.session(t, "operator")
	e := h.edges[0]
	for _, form := range []string{"", "confirm=", "confirm=edge-ams3-00"} {
		if w := do(handler, cookie, "/edges/edge-ams3-000/revoke", form); w.Code != http.StatusUnprocessableEntity || e.RevokedAt != nil {
			t.Errorf("%q: status %d, revoked %v", form, w.Code, e.RevokedAt)
		}
	}
	if w := do(handler, operator, "/edges/edge-ams3-000/revoke", "confirm=edge-ams3-000"); w.Code != http.StatusForbidden || e.RevokedAt != nil {
		t.Errorf("by an operator: status %d, revoked %v", w.Code, e.RevokedAt)
	}
	w := do(handler, cookie, "/edges/edge-ams3-000/revoke", "confirm=edge-ams3-000")
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/edges/edge-ams3-000" || e.RevokedAt == nil {
		t.Errorf("status %d to %s, revoked %v", w.Code, w.Header().Get("Location"), e.RevokedAt)
	}
	if w := do(handler, operator, "/edges/edge-nrt1-003/retry", ""); w.Code != http.StatusSeeOther || len(h.retried) != 1 {
		t.Errorf("retry: status %d, retried %v", w.Code, h.retried)
	}
	if w := do(handler, h.session(t, "viewer"), "/edges/edge-nrt1-003/retry", ""); w.Code != http.StatusForbidden || len(h.retried) != 1 {
		t.Errorf("retry by a viewer: status %d, retried %v", w.Code, h.retried)
	}
}

func TestWhatWasShownIsWhatIsRolledBack(t *testing.T) {
	h := newHub().fleetOf(28).pushable()
	handler, cookie := h.handler(t), h.session(t, "admin")
	w := do(handler, cookie, "/rollbacks", "scope=one", "ns=eu", "shown=eu", "base=base-1", "to=41", "note=oh+no", "glass=yes")
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/pushes/43" {
		t.Fatalf("status %d, to %q", w.Code, w.Header().Get("Location"))
	}
	if r := h.rolledBack[0]; r.To != 41 || r.Base != "base-1" || r.Note != "oh no" || !r.BreakGlass || len(r.Scope.Namespaces) != 1 || r.Scope.Namespaces[0] != "eu" {
		t.Errorf("rolled back %v", r)
	}
	if w := do(handler, cookie, "/rollbacks", "scope=all", "shown=eu", "base=base-1", "to=41"); w.Code != http.StatusConflict || len(h.rolledBack) != 1 {
		t.Errorf("a scope that was not shown: status %d, %d rollbacks", w.Code, len(h.rolledBack))
	}
	if w := do(handler, cookie, "/rollback?to=x"); w.Code != http.StatusBadRequest {
		t.Errorf("to no push: status %d", w.Code)
	}
}

func TestPushesAreFrozenAndUnfrozen(t *testing.T) {
	h := newHub().fleetOf(28).pushable()
	handler, cookie := h.handler(t), h.session(t, "operator")
	if w := do(handler, cookie, "/freezes", "ns=eu", "reason=the+fair"); w.Code != http.StatusSeeOther || len(h.freezes) != 1 || h.freezes[0].Namespace != "eu" {
		t.Fatalf("status %d, frozen: %v", w.Code, h.freezes)
	}
	if w := do(handler, h.session(t, "viewer"), "/unfreeze", "ns=eu"); w.Code != http.StatusForbidden || len(h.freezes) != 1 {
		t.Errorf("a viewer unfreezes: status %d", w.Code)
	}
	if w := do(handler, cookie, "/unfreeze", "ns=eu"); w.Code != http.StatusSeeOther || len(h.freezes) != 0 {
		t.Errorf("status %d, frozen: %v", w.Code, h.freezes)
	}
}

func TestRemovingWantsTheNameOfAConnectedEdge(t *testing.T) {
	h := newHub().fleetOf(4)
	handler, cookie := h.handler(t), h.session(t, "admin")
	for _, form := range []string{"", "confirm=", "confirm=edge-ams3-00"} {
		if w := do(handler, cookie, "/edges/edge-ams3-000/remove", form); w.Code != http.StatusUnprocessableEntity || len(h.edges) != 4 {
			t.Errorf("%q: status %d, %d edges", form, w.Code, len(h.edges))
		}
	}
	w := do(handler, cookie, "/edges/edge-ams3-000/remove", "confirm=edge-ams3-000")
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/edges?removed=edge-ams3-000" || len(h.edges) != 3 {
		t.Errorf("status %d to %s, %d edges", w.Code, w.Header().Get("Location"), len(h.edges))
	}
	if w := do(handler, cookie, "/edges/edge-nrt1-003/remove", ""); w.Code != http.StatusSeeOther || len(h.edges) != 2 {
		t.Errorf("a disconnected one: status %d, %d edges", w.Code, len(h.edges))
	}
	if w := do(handler, cookie, "/edges/edge-nrt1-003/remove", ""); w.Code != http.StatusNotFound {
		t.Errorf("one that is gone: status %d", w.Code)
	}
}

func TestPartsOfPagesFollowThePageToTheLogin(t *testing.T) {
	handler := newHub().handler(t)
	r := httptest.NewRequest(http.MethodGet, "/push", nil)
	r.Header.Set("HX-Request", "true")
	r.Header.Set("HX-Current-URL", "http://hub:7070/edges?q=x")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if got := w.Header().Get("HX-Redirect"); got != "/login?next=%2Fedges%3Fq%3Dx" {
		t.Errorf("HX-Redirect %q", got)
	}
}

func TestPagesAreSmall(t *testing.T) {
	h := newHub().fleetOf(500)
	r := httptest.NewRequest(http.MethodGet, "/edges", nil)
	r.AddCookie(h.session(t, "admin"))
	r.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	start := time.Now()
	h.handler(t).ServeHTTP(w, r)
	took, sent := time.Since(start), w.Body.Len()
	z, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(parse(t, string(data)).all("tr", "id")); n != 100 {
		t.Errorf("%d rows", n)
	}
	if sent > 12_000 {
		t.Errorf("a page of 100 rows is %d bytes compressed", sent)
	}
	t.Logf("100 rows: %d bytes, %d compressed, %v", len(data), sent, took)
}
