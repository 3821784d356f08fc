package ui

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/net/html"

	"gw/rpc/gwv1"
)

// shot is a page in a state: what every general test walks, and what screenshots are taken of.
type shot struct {
	name   string
	hub    func() *hub
	user   string // "": nobody
	target string
	form   []string
	status int
	says   []string
}

func shots() []shot {
	full := func() *hub { return newHub().fleetOf(28).pushable() }
	long := func() *hub { return newHub().fleetOf(500).pushable() }
	broken := func(err error) func() *hub {
		return func() *hub { h := newHub().fleetOf(3); h.fault = err; return h }
	}
	failing := func() *hub {
		h := full()
		e := h.edges[0]
		e.Sync, e.SyncReason = gwv1.Sync_SYNC_STALE, "The last apply failed."
		e.LoadedChecksum, e.LoadedRelease = strings.Repeat("cb28", 16), 41
		e.ApplyError = &gwv1.ApplyError{Release: 42, Kind: "API", Name: "orders", Field: "spec.paths[0]", Code: "compile", Message: `"/v1" is taken by API/chat`, At: e.LastHeartbeat}
		e.ConflictingSessionId = strings.Repeat("ab", 16)
		return h
	}
	frozen := func() *hub {
		h := full()
		h.freezes = []*gwv1.PushFreeze{{Namespace: "default", Reason: "The fair, until Monday", By: "ada", At: h.edges[0].LastHeartbeat}}
		return h
	}
	return []shot{
		{"login", full, "", "/login?next=%2Fedges%2Fx", nil, 200, []string{"Sign in to acme-prod", "User", "Password"}},
		{"login-wrong", full, "", "/login", []string{"user=ada", "password=wrong", "next=/edges"}, 422, []string{"Wrong user or password."}},
		{"edges", full, "admin", "/edges", nil, 200, []string{"28 edges", "Connected", "edge-ams3-000", "Unpushed changes in 1 namespace"}},
		{"edges-busy", func() *hub { return full().busy() }, "admin", "/edges", nil, 200, []string{"Traffic: 1 843 requests/s, 0.4 % errors"}},
		{"edges-pages", long, "admin", "/edges?page=5", nil, 200, []string{"500 edges", "Page 5 of 5"}},
		{"edges-filtered", full, "viewer", "/edges?ns=eu&sync=pending&sort=-heartbeat&q=edge", nil, 200, []string{"Clear filters", "Pending"}},
		{"edges-empty", newHub, "admin", "/edges", nil, 200, []string{"No edges yet", "gw join-token", "gw edge --hub https://hub.acme.internal:50051 --join-token"}},
		{"edges-no-match", full, "admin", "/edges?q=nosuch", nil, 200, []string{"No edge matches", "0 edges of 28"}},
		{"edges-error", broken(connect.NewError(connect.CodeUnavailable, errors.New("no leader"))), "admin", "/edges", nil, 503, []string{"The edges cannot be shown", "No leader."}},
		{"edges-removed", full, "admin", "/edges?removed=edge-x", nil, 200, []string{"registers again"}},
		{"edge", full, "admin", "/edges/edge-ams3-000", nil, 200, []string{"Loaded", "Released", "Expected", "release 42", "hetzner", "Its watch stream is open", "in 16 h"}},
		{"edge-failing", failing, "admin", "/edges/edge-ams3-000", nil, 200, []string{"Release 42 was not loaded", "API/orders spec.paths[0]", "Differs from loaded", "Two live processes"}},
		{"edge-busy", func() *hub { return failing().busy() }, "admin", "/edges/edge-ams3-000", nil, 200, []string{"1 843 /s", "0.4 %", "2.31 ms", "p99 1.3 s", "Asked to try its target again. by ada", "Connections since this leader listens", "Try again"}},
		{"edge-quiet", full, "admin", "/edges/edge-blr1-001", nil, 200, []string{"Not reported yet", "Nothing has happened yet", "This hub does not lead"}},
		{"edge-revoked", func() *hub {
			h := failing().busy()
			e := h.edges[0]
			e.Connection, e.ConnectionReason = gwv1.Connection_CONNECTION_DISCONNECTED, "revoked by ada 3m0s ago; it can enrol again with a fresh join token"
			e.RevokedAt, e.RevokedBy, e.ConflictingSessionId, e.ApplyError = e.LastHeartbeat, "ada", "", nil
			return h
		}, "admin", "/edges/edge-ams3-000", nil, 200, []string{"Revoked by ada: every hub refuses this edge"}},
		{"revoke", full, "admin", "/edges/edge-ams3-000/revoke", nil, 200, []string{"Type the edge's ID to confirm", "fresh join token"}},
		{"revoke-wrong", full, "admin", "/edges/edge-ams3-000/revoke", []string{"confirm=other"}, 422, []string{"Nothing was revoked"}},
		{"remove", full, "admin", "/edges/edge-ams3-000/remove", nil, 200, []string{"Type the edge's ID to confirm", "registers again"}},
		{"remove-disconnected", full, "admin", "/edges/edge-nrt1-003/remove", nil, 200, []string{"Remove edge"}},
		{"remove-wrong", full, "admin", "/edges/edge-ams3-000/remove", []string{"confirm=other"}, 422, []string{"Nothing was removed"}},
		{"push", full, "operator", "/push", nil, 200, []string{"All namespaces", "API/orders", "Updated", "Created", "Deleted", "14 of 15 edges connected", "1 edge not connected"}},
		{"push-one", full, "operator", "/push?scope=one&ns=eu", nil, 200, []string{"Push to eu", "Nothing: what is saved is what was pushed"}},
		{"push-too-old", func() *hub {
			h := full()
			n := h.preview.Namespaces[0]
			n.TooOldEdges, n.TooOld = 9, []*gwv1.TooOld{
				{Kind: "API", Name: "orders", Field: "spec.upstreams[0].url", Reason: "9 edges are too old for API/orders spec.upstreams[0].url",
					Edges: 9, EdgeIds: []string{"edge-ams3-000", "edge-blr1-001", "edge-nrt1-003", "edge-sfo3-004", "edge-syd1-005"}},
				{Kind: "API", Name: "orders", Field: "spec.auth", Reason: "1 edge is too old for API/orders spec.auth and another resource that uses it", Edges: 1, EdgeIds: []string{"edge-ams3-000"}}}
			return h
		}, "operator", "/push", nil, 200, []string{"9 edges of default would keep what is loaded there", "too old for API/orders spec.auth and another", "edge-syd1-005", "and 4 more"}},
		{"push-blocked", func() *hub {
			h := full()
			h.preview.Problems = []string{"API/orders spec.upstreams[0].url: not a URL"}
			return h
		}, "operator", "/push", nil, 200, []string{"This would not be accepted", "not a URL"}},
		{"push-changed", func() *hub { h := full(); h.pushErr = detailed(connect.CodeFailedPrecondition, "changed"); return h }, "operator", "/pushes", []string{"scope=all", "base=base-0", "shown=", "note=hello"}, 409, []string{"has changed since it was shown", "API/orders"}},
		{"push-confirm", func() *hub {
			h := full()
			h.pushErr = detailed(connect.CodeFailedPrecondition, "confirm_removal")
			return h
		}, "operator", "/pushes", []string{"scope=all", "base=base-1", "shown="}, 409, []string{"This push takes much away: default would lose 9 of 10 resources.", "takes away more than half"}},
		{"push-nothing", func() *hub { h := full(); h.push = &gwv1.PushResponse{}; return h }, "operator", "/pushes", []string{"scope=all", "base=base-1", "shown="}, 200, []string{"Nothing differed"}},
		{"progress", full, "viewer", "/pushes/43", nil, 200, []string{"Loaded on 8 of 12 edges", "edge-fra1-002", "Failed", "is taken by API/chat", "Offline 1", "1 created, 1 updated, 1 deleted", "What changed"}},
		{"rollback", full, "operator", "/rollback?to=41", nil, 200, []string{"Roll back to push 41", "API/orders", "What is saved stays as it is", "Roll back all namespaces"}},
		{"rollback-one", full, "operator", "/rollback?scope=one&ns=eu", nil, 200, []string{"Roll back eu", "Nothing: that is what is released."}},
		{"push-frozen", frozen, "operator", "/push", nil, 200, []string{"Pushes of default are frozen:", "The fair", "by ada"}},
		{"push-frozen-admin", frozen, "admin", "/push", nil, 200, []string{"Break the glass", "Why this can't wait"}},
		{"diff", full, "viewer", "/diff?ns=default&to=43", nil, 200, []string{"API/orders", "spec.timeouts.response_header", "10s", "30s", "LLM/openai-eu", "https://eu.api.openai.com", "What is saved"}},
		{"diff-none", full, "viewer", "/diff?ns=eu&from=40&to=42", nil, 200, []string{"No difference"}},
		{"diff-first", full, "viewer", "/diff?ns=default&to=39", nil, 200, []string{"Nothing before it"}},
		{"freeze", full, "operator", "/freeze", nil, 200, []string{"All namespaces, those of later too", "shown to who is refused"}},
		{"freeze-why", full, "operator", "/freezes", []string{"ns=default", "reason="}, 422, []string{"Say why"}},
		{"releases", full, "viewer", "/releases", nil, 200, []string{"Target", "ada", "Orders: new upstream", "17.6 KiB", "Rollback to 40", "although frozen", "8 of 12"}},
		{"releases-frozen", frozen, "operator", "/releases", nil, 200, []string{"Pushes of default are frozen:", "Unfreeze", "Freeze…"}},
		{"releases-empty", newHub, "viewer", "/releases?ns=eu", nil, 200, []string{"No releases yet"}},
		{"audit", full, "viewer", "/audit", nil, 200, []string{"revoke edge", "edge/edge-ams3-000", "10.0.0.12", "Older"}},
		{"audit-older", full, "viewer", "/audit?before=50&ns=eu&actor=lin", nil, 200, []string{"API/orders", "Newest", "Clear filters"}},
		{"audit-none", full, "viewer", "/audit?object=nothing", nil, 200, []string{"No entry matches", "--audit-log"}},
		{"plugins", full, "operator", "/plugins", nil, 200, []string{"cachestats", "Failed", "is not on this machine", "3 expired", "hub plugin 7 is not running", "Nowhere", "report-17", "Redeliver", "4 keys"}},
		{"plugins-empty", newHub, "viewer", "/plugins", nil, 200, []string{"No plugin is configured", "There are no dead letters"}},
		{"dead-letter-viewer", full, "viewer", "/dead-letters", []string{"id=1f0c9a3be27d5c48", "do=drop"}, 403, []string{"You may not do that"}},
		{"403", full, "viewer", "/push", nil, 403, []string{"You may not do that"}},
		{"404", full, "viewer", "/nowhere", nil, 404, []string{"Not found"}},
		{"404-edge", full, "viewer", "/edges/none", nil, 404, []string{`There is no edge "none".`}},
		{"409", broken(connect.NewError(connect.CodeFailedPrecondition, errors.New("it changed"))), "viewer", "/releases", nil, 409, []string{"Something else changed first", "It changed."}},
		{"500", broken(errors.New("disk exploded")), "viewer", "/releases", nil, 500, []string{"Something went wrong", "reference"}},
		{"503", broken(connect.NewError(connect.CodeUnavailable, errors.New("no leader"))), "viewer", "/pushes/43", nil, 503, []string{"The cluster cannot answer now", "Edges go on serving"}},
	}
}

func detailed(code connect.Code, word string) error {
	err := connect.NewError(code, errors.New("default would lose 9 of 10 resources"))
	d, _ := connect.NewErrorDetail(&gwv1.ErrorDetail{Reason: word})
	err.AddDetail(d)
	return err
}

func TestEveryPageIsSound(t *testing.T) {
	for _, s := range shots() {
		t.Run(s.name, func(t *testing.T) {
			h := s.hub()
			handler := h.handler(t)
			var cookie *http.Cookie
			if s.user != "" {
				cookie = h.session(t, s.user)
			}
			w := do(handler, cookie, s.target, s.form...)
			if w.Code != s.status {
				t.Fatalf("status %d, want %d: %.300s", w.Code, s.status, w.Body)
			}
			wantHeaders(t, w)
			d := parse(t, w.Body.String())
			d.sound()
			for _, want := range s.says {
				d.wantText(want)
			}
			if strings.Contains(d.raw, "disk exploded") {
				t.Error("the page shows an error that was not made to be shown")
			}
		})
	}
}

func TestHostileNamesStayText(t *testing.T) {
	probes := []string{`<img src=x onerror=alert(1)>`, `"><script>alert(1)</script>`, `<hx-partial hx-target="body">x</hx-partial>`, `' onclick='x`, "javascript:alert(1)", "</title><base href=//evil>", "#x\" hx-get=\"//evil", "a b\r\n\r\ndata: x"}
	for _, probe := range probes {
		h := newHub().pushable()
		h.edges = []*gwv1.Edge{{
			Id: probe, Namespace: probe, Connection: 1, ConnectionReason: probe, Sync: 4, SyncReason: probe, Health: 2, HealthReason: probe, Version: probe, Build: probe,
			LoadedChecksum: probe, ReleasedChecksum: probe, ExpectedChecksum: probe + "1", SessionId: probe, ConflictingSessionId: probe, RemoteAddress: probe,
			Labels: map[string]string{probe: probe}, Metadata: map[string]string{probe: probe},
			ApplyError: &gwv1.ApplyError{Kind: probe, Name: probe, Field: probe, Code: probe, Message: probe},
		}}
		h.names = []*gwv1.Namespace{{Name: probe}}
		h.releases = []*gwv1.Release{{Namespace: probe, Number: 43, Checksum: probe, CreatedBy: probe, Note: probe}}
		h.preview.Problems = []string{probe}
		h.preview.Namespaces[0].Namespace, h.preview.Namespaces[0].Changes[0].Name = probe, probe
		h.progress[43].Failures = []*gwv1.PushFailure{{Edge: probe, Message: probe}}
		handler, id := h.handler(t), url.PathEscape(probe)
		cookie := h.session(t, "admin")
		for _, target := range []string{"/edges", "/edges?q=" + url.QueryEscape(probe) + "&ns=" + url.QueryEscape(probe), "/edges?removed=" + url.QueryEscape(probe), "/edges/" + id, "/edges/" + id + "/remove", "/edges/" + id + "/revoke", "/audit?object=" + url.QueryEscape(probe) + "&actor=" + url.QueryEscape(probe), "/push", "/pushes/43", "/releases?ns=" + url.QueryEscape(probe), "/push?note=" + url.QueryEscape(probe)} {
			t.Run(target, func(t *testing.T) {
				w := do(handler, cookie, target)
				if w.Code != http.StatusOK {
					t.Fatalf("status %d", w.Code)
				}
				d := parse(t, w.Body.String())
				d.sound()
				if n := len(d.all("img")) + len(d.all("base")) + len(d.all("hx-partial")); n != 0 {
					t.Errorf("%d elements came from the probe", n)
				}
				if strings.Contains(strings.ToLower(d.raw), "<hx-") {
					t.Error("htmx would take the probe for a part of the page")
				}
			})
		}
	}
}

func TestViewOfTheFleetLivesInTheAddress(t *testing.T) {
	h := newHub().fleetOf(250)
	handler, cookie := h.handler(t), h.session(t, "admin")
	d := parse(t, do(handler, cookie, "/edges?conn=connected&ns=eu&sort=-version&q=edge&page=1").Body.String())
	if rows := d.all("tr", "id"); len(rows) == 0 {
		t.Fatal("no rows")
	} else {
		for _, r := range rows {
			if s := text(r); !strings.Contains(s, "eu") || !strings.Contains(s, "Connection: Connected") {
				t.Errorf("row %q is not in the view", s)
			}
		}
	}
	if th := d.one("th", "aria-sort"); attr(th, "aria-sort") != "descending" || text(th) != "Version ↓" {
		t.Errorf("sorted column is %q %q", text(th), attr(th, "aria-sort"))
	}
	for _, c := range d.all("a", "class=chip st-disconnected") {
		if want := "/edges?conn=disconnected&ns=eu&q=edge&sort=-version"; attr(c, "href") != want {
			t.Errorf("chip leads to %s, want %s", attr(c, "href"), want)
		}
	}
	if on := d.all("a", "aria-current=true"); len(on) != 1 || attr(on[0], "href") != "/edges?ns=eu&q=edge&sort=-version" {
		t.Errorf("pressed chips: %d", len(on))
	}
	if v := attr(d.one("input", "id=q"), "value"); v != "edge" {
		t.Errorf("the filter shows %q", v)
	}
	if s := d.all("option", "selected"); len(s) != 1 || attr(s[0], "value") != "eu" {
		t.Errorf("the namespace chosen is not shown: %v", s)
	}

	d = parse(t, do(handler, cookie, "/edges?page=3").Body.String())
	if n := len(d.all("tr", "id")); n != 50 {
		t.Errorf("page 3 of 250 has %d rows", n)
	}
	if prev := d.all("a", "rel=prev"); len(prev) != 1 || attr(prev[0], "href") != "/edges?page=2" || len(d.all("a", "rel=next")) != 0 {
		t.Error("page 3 does not lead back to 2 only")
	}
	for _, junk := range []string{"sort=;drop", "conn=x", "page=-1", "page=99999999999999999999", "sync=%FF", "q=%FF%FE", "ns=%00", "q=" + strings.Repeat("x", 5000)} {
		if w := do(handler, cookie, "/edges?"+junk); w.Code != http.StatusOK {
			t.Errorf("?%s: status %d", junk, w.Code)
		}
	}
}

func TestThreeChecksumsAreSetBesideOneAnother(t *testing.T) {
	a, b := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	for _, c := range []struct {
		loaded, released, expected string
		differing                  int
	}{{a, a, a, 0}, {a, a, b, 1}, {a, b, b, 2}, {"", a, b, 0}} {
		t.Run(fmt.Sprintf("%.2s %.2s %.2s", c.loaded, c.released, c.expected), func(t *testing.T) {
			h := newHub().fleetOf(1)
			h.edges[0].LoadedChecksum, h.edges[0].ReleasedChecksum, h.edges[0].ExpectedChecksum = c.loaded, c.released, c.expected
			d := parse(t, do(h.handler(t), h.session(t, "viewer"), "/edges/edge-ams3-000").Body.String())
			if n := len(d.all("span", "class=st st-differs")); n != c.differing {
				t.Errorf("%d marked as differing, want %d", n, c.differing)
			}
			for _, sum := range []string{c.loaded, c.released, c.expected} {
				if sum != "" && !slices.ContainsFunc(d.all("code", "class=sum-code"), func(n *html.Node) bool { return strings.ReplaceAll(text(n), " ", "") == sum }) {
					t.Errorf("%s is not shown in full", sum)
				}
			}
		})
	}
}

func TestViewersAreOfferedNothingTheyMayNotDo(t *testing.T) {
	h := newHub().fleetOf(3).pushable()
	handler, viewer := h.handler(t), h.session(t, "viewer")
	for _, target := range []string{"/edges", "/edges/edge-ams3-000", "/releases", "/pushes/43"} {
		d := parse(t, do(handler, viewer, target).Body.String())
		for _, a := range d.all("a") {
			if href := attr(a, "href"); strings.HasSuffix(href, "/remove") || strings.HasSuffix(href, "/revoke") || href == "/push" || strings.HasPrefix(href, "/push?") {
				t.Errorf("%s offers %s", target, href)
			}
		}
	}
	for _, target := range []string{"/push", "/edges/edge-ams3-000/remove", "/edges/edge-ams3-000/revoke"} {
		if w := do(handler, viewer, target); w.Code != http.StatusForbidden {
			t.Errorf("GET %s: status %d", target, w.Code)
		}
	}
	if w := do(handler, viewer, "/pushes", "scope=all", "base=base-1", "shown="); w.Code != http.StatusForbidden || len(h.pushed) != 0 {
		t.Errorf("push by a viewer: status %d, pushes %d", w.Code, len(h.pushed))
	}
	if w := do(handler, h.session(t, "operator"), "/edges/edge-ams3-000/remove", "confirm=edge-ams3-000"); w.Code != http.StatusForbidden || len(h.edges) != 3 {
		t.Errorf("removal by an operator: status %d, %d edges left", w.Code, len(h.edges))
	}
}

func TestWhoMayPushInSomeNamespacesIsOfferedThose(t *testing.T) {
	h := newHub().fleetOf(3).pushable()
	handler, cookie := h.handler(t), h.session(t, "operator")
	h.sessions[cookie.Value].Namespaces = []string{"eu"}
	d := parse(t, do(handler, cookie, "/push").Body.String())
	if !has(d.one("input", "id=scope-all"), "disabled") || !has(d.one("input", "id=scope-one"), "checked") {
		t.Error("a push of everything is offered to somebody who may not")
	}
	d.wantText("Push to eu")
}

func TestEveryLinkLeadsSomewhere(t *testing.T) {
	h := newHub().fleetOf(120).pushable()
	for n := range 50 {
		h.progress[uint64(n)] = h.progress[43]
	}
	handler, cookie := h.handler(t), h.session(t, "admin")
	tried := map[string]bool{}
	for _, from := range []string{"/edges", "/edges?q=x", "/edges/edge-ams3-000", "/edges/edge-ams3-000/remove", "/edges/edge-ams3-000/revoke", "/push", "/pushes/43", "/releases", "/audit?actor=lin", "/nowhere"} {
		d := parse(t, do(handler, cookie, from).Body.String())
		for _, n := range append(d.all("a", "href"), append(d.all("link", "href"), d.all("script", "src")...)...) {
			to := attr(n, "href") + attr(n, "src")
			if tried[to] || strings.HasPrefix(to, "#") {
				continue
			}
			tried[to] = true
			if w := do(handler, cookie, to); w.Code >= 400 {
				t.Errorf("%s leads to %s: status %d", from, to, w.Code)
			}
		}
	}
}
