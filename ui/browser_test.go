package ui

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/chromedp/cdproto/emulation"
	browserlog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// chromium is the one browser of this test binary, started by the first test that needs it.
var chromium struct {
	once  sync.Once
	ctx   context.Context
	close []func()
	err   error
}

func TestMain(m *testing.M) {
	code := m.Run()
	for i := len(chromium.close) - 1; i >= 0; i-- {
		chromium.close[i]()
	}
	os.Exit(code)
}

func startChromium() {
	path, err := exec.LookPath("chromium")
	if err != nil {
		chromium.err = err
		return
	}
	dir, err := os.MkdirTemp("", "gw-console-")
	if err != nil {
		chromium.err = err
		return
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(dir),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("hide-scrollbars", true))
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancelTab := chromedp.NewContext(allocator)
	chromium.close = append(chromium.close, func() { os.RemoveAll(dir) }, cancel, cancelTab)
	chromium.ctx, chromium.err = ctx, chromedp.Do(ctx)
}

// tab is a page in a browser of its own cookies, on a console of its own.
type tab struct {
	t      *testing.T
	ctx    context.Context
	server *httptest.Server

	mu       sync.Mutex
	trouble  []string // what the browser complained about
	requests []string
}

// newTab opens a tab on a hub. Where there is no Chromium the test is skipped, but never in CI.
func newTab(t *testing.T, h *hub) *tab {
	t.Helper()
	chromium.once.Do(startChromium)
	if chromium.err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("browser tests need Chromium: %v", chromium.err)
		}
		t.Skipf("browser tests need Chromium (Debian: apt-get install chromium): %v", chromium.err)
	}
	base, stop := context.WithCancel(context.Background())
	server := httptest.NewUnstartedServer(h.handler(t))
	server.Config.BaseContext = func(net.Listener) context.Context { return base }
	server.Start()
	ctx, cancel := chromedp.NewContext(chromium.ctx, chromedp.WithNewBrowserContext())
	ctx, expire := context.WithTimeout(ctx, time.Minute)
	b := &tab{t: t, ctx: ctx, server: server}
	t.Cleanup(func() {
		if t.Failed() {
			b.mu.Lock()
			t.Logf("requests: %s", strings.Join(b.requests[max(0, len(b.requests)-10):], " "))
			b.mu.Unlock()
		}
		expire()
		cancel()
		stop()
		server.Close()
	})
	b.check(chromedp.Listen(ctx, b.listen))
	_, err := chromedp.Call(ctx, browserlog.Enable, struct{}{})
	b.check(err)
	return b
}

func (b *tab) check(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// listen notes what a page must not cause: requests to elsewhere, violations of the policy, script errors.
func (b *tab) listen(ev any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch ev := ev.(type) {
	case *network.EventRequestWillBeSent:
		b.requests = append(b.requests, ev.Request.URL)
		if !strings.HasPrefix(ev.Request.URL, b.server.URL+"/") && !strings.HasPrefix(ev.Request.URL, "about:") {
			b.trouble = append(b.trouble, "request to "+ev.Request.URL)
		}
	case *browserlog.EventEntryAdded:
		if ev.Entry.Level == browserlog.EntryLevelError && ev.Entry.Source != "network" {
			b.trouble = append(b.trouble, ev.Entry.Text)
		}
	case *runtime.EventExceptionThrown:
		b.trouble = append(b.trouble, ev.ExceptionDetails.Text+" "+ev.ExceptionDetails.URL)
	}
}

// quiet fails the test if the browser complained.
func (b *tab) quiet() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.trouble {
		b.t.Errorf("the browser complained: %s", s)
	}
	b.trouble = nil
}

// as signs the tab in.
func (b *tab) as(h *hub, user string) {
	b.t.Helper()
	c := h.session(b.t, user)
	_, err := chromedp.Call(b.ctx, network.SetCookie, network.SetCookieParams{Name: c.Name, Value: c.Value, URL: b.server.URL})
	b.check(err)
}

func (b *tab) open(target string) {
	b.t.Helper()
	b.check(chromedp.Do(b.ctx, chromedp.Navigate(b.server.URL+target)))
}

// size sets the window, and the theme the system asks for.
func (b *tab) size(width int64, theme string) {
	b.t.Helper()
	height := int64(900)
	if width < 760 {
		height = 844
	}
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: theme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
	b.check(err)
	b.check(chromedp.Do(b.ctx, chromedp.EmulateViewport(width, height)))
}

func (b *tab) click(css string) {
	b.t.Helper()
	b.check(chromedp.Do(b.ctx, chromedp.Click(chromedp.CSS(css), chromedp.NodeVisible)))
}

func (b *tab) keys(css, keys string) {
	b.t.Helper()
	b.check(chromedp.Do(b.ctx, chromedp.SendKeys(chromedp.CSS(css), keys)))
}

// until waits for an expression to become true, also across pages.
func (b *tab) until(expression string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 15*time.Second)
	defer cancel()
	ready := "document.readyState === 'complete' && !!(" + expression + ")"
	for {
		// A page that is left while it is asked gives an error; the next one is asked again.
		if _, err := chromedp.Run(ctx, chromedp.Poll[bool](ready)); err == nil {
			return
		}
		if ctx.Err() != nil {
			at, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string]("location.href + ' ' + document.body.innerText.slice(0, 500)"))
			b.t.Fatalf("waited in vain for %s at %s", expression, at)
		}
	}
}

func evaluate[T any](b *tab, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	b.check(err)
	return v
}

// accessible runs axe over the page as it is, or over what is open above it: that covers parts of the page, and is meant to.
func (b *tab) accessible() {
	b.t.Helper()
	source, err := os.ReadFile("testdata/axe.min.js")
	b.check(err)
	_ = evaluate[chromedp.Void](b, string(source))
	for _, v := range evaluate[[]string](b, `axe.run(document.querySelector(":popover-open") ?? document, {runOnly: ["wcag2a","wcag2aa","wcag21a","wcag21aa","wcag22aa","best-practice"]}).then(r =>
		r.violations.flatMap(v => v.nodes.map(n => v.id + ": " + v.help + " at " + n.target.join(" ") + " — " + (n.any[0]?.message ?? n.all[0]?.message ?? n.none[0]?.message ?? ""))))`) {
		b.t.Errorf("axe: %s", v)
	}
}

func TestSignInFilterAndSort(t *testing.T) {
	h := newHub().fleetOf(30).pushable()
	b := newTab(t, h)
	b.open("/edges?ns=eu")
	b.until("location.pathname === '/login'")
	b.keys("input[name=user]", "admin")
	b.keys("input[name=password]", "wrong\r")
	b.until(`document.querySelector("[role=alert]")?.innerText.includes("Wrong user or password")`)
	b.keys("input[name=password]", "right\r")
	b.until("location.pathname === '/edges' && location.search === '?ns=eu'")
	b.check(chromedp.Do(b.ctx, chromedp.KeyEvent("/")))
	b.until("document.activeElement.id === 'q'")
	b.keys("#q", "edge-fra1\r")
	b.until("new URLSearchParams(location.search).get('q') === '/edge-fra1' || new URLSearchParams(location.search).get('q') === 'edge-fra1'")
	b.open("/edges")
	b.click("a.chip.st-disconnected")
	b.until("location.search === '?conn=disconnected' && document.querySelectorAll('#rows tr').length === 2")
	b.click("th:nth-child(2) a")
	b.until("document.querySelector('th[aria-sort=ascending]')?.innerText.startsWith('Namespace')")
	_ = evaluate[chromedp.Void](b, "document.querySelector('select[name=ns]').value = 'payments'; document.querySelector('select[name=ns]').dispatchEvent(new Event('change', {bubbles: true}))")
	b.until("new URLSearchParams(location.search).get('ns') === 'payments' && new URLSearchParams(location.search).get('conn') === 'disconnected'")
	b.click(".foot button")
	b.until("location.pathname === '/login'")
	b.open("/edges")
	b.until("location.pathname === '/login'")
	b.quiet()
}

func TestRowsUpdateUnderTheReader(t *testing.T) {
	h := newHub().fleetOf(20)
	b := newTab(t, h)
	b.as(h, "admin")
	b.open("/edges")
	b.until("document.querySelector('#livestate').dataset.state === 'on'")
	_ = evaluate[chromedp.Void](b, `document.getElementById("open-edge-fra1-002").focus(); document.getElementById("q").value = "half typ"; window.kept = document.getElementById("row-edge-fra1-002")`)
	h.change(func() { h.edges[2].Version = "9.9.9" })
	b.until(`document.getElementById("row-edge-fra1-002").innerText.includes("9.9.9")`)
	if id := evaluate[string](b, "document.activeElement.id"); id != "open-edge-fra1-002" {
		t.Errorf("the focus moved to %q", id)
	}
	if !evaluate[bool](b, `document.getElementById("row-edge-fra1-002") === window.kept`) {
		t.Error("the row was replaced, not changed")
	}
	// Another row comes above it: the list is sent, and the focus still stays.
	h.change(func() { h.edges[0].Id = "a-new-one" })
	b.until(`document.querySelector("#rows tr").id === "row-a-new-one"`)
	if id := evaluate[string](b, "document.activeElement.id"); id != "open-edge-fra1-002" {
		t.Errorf("after a new row the focus is at %q", id)
	}
	if v := evaluate[string](b, `document.getElementById("q").value`); v != "half typ" {
		t.Errorf("what was typed became %q", v)
	}
	// An open menu stays open while its row changes.
	b.click(`[popovertarget="menu-edge-nyc3-004"]`)
	b.until(`document.getElementById("menu-edge-nyc3-004").matches(":popover-open")`)
	h.change(func() { h.edges[4].Version = "9.9.8" })
	b.until(`document.getElementById("row-edge-nyc3-004").innerText.includes("9.9.8")`)
	if !evaluate[bool](b, `document.getElementById("menu-edge-nyc3-004").matches(":popover-open")`) {
		t.Error("the menu was closed by an update")
	}
	b.quiet()
}

func TestPushFromTheDialogToTheEnd(t *testing.T) {
	h := newHub().fleetOf(20).pushable()
	b := newTab(t, h)
	b.as(h, "operator")
	b.open("/edges")
	b.until("document.querySelector('#livestate').dataset.state === 'on'") // before htmx is there, "p" opens the form as a page
	b.check(chromedp.Do(b.ctx, chromedp.KeyEvent("p")))
	b.until("document.getElementById('dialog').open")
	b.keys("#push-note", "because")
	_ = evaluate[chromedp.Void](b, `document.getElementById("push-ns").value = "eu"; document.getElementById("push-ns").dispatchEvent(new Event("change", {bubbles: true}))`)
	b.until(`document.getElementById("push-submit").disabled && document.getElementById("scope-one").checked && document.getElementById("push-form").innerText.includes("Nothing:")`)
	b.click("#scope-all")
	b.until(`!document.getElementById("push-submit").disabled && document.getElementById("push-submit").innerText === "Push to all namespaces"`)
	if v := evaluate[string](b, `document.getElementById("push-note").value`); v != "because" {
		t.Errorf("the note became %q when the scope changed", v)
	}
	b.click("#push-submit")
	b.until("location.pathname === '/pushes/43' && document.querySelector('#livestate').dataset.state === 'on'")
	if p := h.pushed[0]; p.Base != "base-1" || p.Note != "because" || len(p.Scope.GetNamespaces()) != 0 {
		t.Errorf("pushed %v", p)
	}
	h.change(func() { p := h.progress[43]; p.Loaded, p.Waiting, p.Failed, p.Failures = 11, 0, 0, nil })
	b.until(`document.getElementById("outcome").innerText === "Loaded on 11 of 12 edges." && document.getElementById("pbar").value === 11`)
	b.quiet()
}

func TestRemoveFromTheMenu(t *testing.T) {
	h := newHub().fleetOf(5)
	b := newTab(t, h)
	b.as(h, "admin")
	b.open("/edges")
	b.until("document.querySelector('#livestate').dataset.state === 'on'")
	b.click(`[popovertarget="menu-edge-fra1-002"]`)
	b.click("#menu-edge-fra1-002 a.bad")
	b.until("document.getElementById('dialog').open && document.activeElement.name === 'confirm'")
	b.keys("input[name=confirm]", "edge-fra1-00\r")
	if !evaluate[bool](b, "document.getElementById('dialog').open && !document.querySelector('input[name=confirm]').validity.valid") {
		t.Error("a name that is not the edge's was accepted")
	}
	b.keys("input[name=confirm]", "2\r")
	b.until("location.search === '?removed=edge-fra1-002' && document.querySelectorAll('#rows tr').length === 4")
	h.change(func() { h.edges = nil })
	b.until(`document.getElementById("list").innerText.includes("No edges yet")`)
	b.quiet()
}

func TestEndedSessionShowsOnAnOpenPage(t *testing.T) {
	h := newHub().fleetOf(2)
	b := newTab(t, h)
	b.as(h, "viewer")
	b.open("/edges/edge-ams3-000?x=1")
	b.until("document.querySelector('#livestate').dataset.state === 'on'")
	h.change(func() { clear(h.sessions) })
	b.until("document.querySelector('#livestate').innerText === 'Signed out' && !document.getElementById('signed-out').hidden")
	if href := evaluate[string](b, "document.querySelector('[data-return]').getAttribute('href')"); href != "/login?next=%2Fedges%2Fedge-ams3-000%3Fx%3D1" {
		t.Errorf("the way back is %s", href)
	}
	b.quiet()
}

func TestBadgeAdmitsThatTheHubIsAway(t *testing.T) {
	h := newHub().fleetOf(2)
	b := newTab(t, h)
	b.as(h, "viewer")
	b.open("/edges")
	b.until("document.querySelector('#livestate').dataset.state === 'on'")
	b.server.CloseClientConnections()
	h.change(func() { h.edges[0].Version = "9.9.9" }) // while nobody listens
	b.until("document.querySelector('#rows').innerText.includes('9.9.9') && document.querySelector('#livestate').dataset.state === 'on'")
}

func TestPageOfAClusterWithoutAnAnswerFillsByItself(t *testing.T) {
	h := newHub().fleetOf(3)
	h.fault = connect.NewError(connect.CodeUnavailable, errors.New("no leader"))
	b := newTab(t, h)
	b.as(h, "viewer")
	b.open("/edges")
	b.until("document.querySelector('#livestate').innerText === 'No answer from the cluster' && document.getElementById('list').innerText.includes('No leader.')")
	h.change(func() { h.fault = nil })
	b.until("document.querySelector('#livestate').innerText === 'Live' && document.querySelectorAll('#rows tr').length === 3 && document.getElementById('summary').innerText.includes('Connected') && document.getElementById('count').innerText === '3 edges'")
	b.quiet()
}

func TestThemeIsKept(t *testing.T) {
	h := newHub().fleetOf(2)
	b := newTab(t, h)
	b.as(h, "viewer")
	b.size(1440, "light")
	b.open("/edges")
	b.click("#theme")
	b.until("document.documentElement.dataset.theme === 'dark'")
	b.open("/releases")
	b.until("document.documentElement.dataset.theme === 'dark' && getComputedStyle(document.body).colorScheme !== 'light'")
	b.click("#theme")
	b.until("document.documentElement.dataset.theme === 'light'")
	b.quiet()
}

func TestPagesWorkWithoutScripts(t *testing.T) {
	h := newHub().fleetOf(5).pushable()
	b := newTab(t, h)
	_, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	b.check(err)
	b.open("/edges")
	b.keys("input[name=user]", "admin")
	b.keys("input[name=password]", "right\r")
	b.check(chromedp.Do(b.ctx, chromedp.WaitVisible(chromedp.CSS("#rows"))))
	b.click("#push-button")
	b.click("#push-submit")
	b.check(chromedp.Do(b.ctx, chromedp.WaitVisible(chromedp.CSS("#progress"))))
	if len(h.pushed) != 1 {
		t.Errorf("%d pushes", len(h.pushed))
	}
	b.open("/edges")
	b.click(`[popovertarget="menu-edge-fra1-002"]`)
	b.click("#menu-edge-fra1-002 a.bad")
	b.keys("input[name=confirm]", "edge-fra1-002\r")
	b.check(chromedp.Do(b.ctx, chromedp.WaitVisible(chromedp.CSS(".banner.good"))))
	if len(h.edges) != 4 {
		t.Errorf("%d edges", len(h.edges))
	}
}

type look struct {
	theme string
	width int64
}

// looks are how a shot is looked at: the pages themselves in every way, their other states in two that have it all.
func looks(name string) []look {
	two := []look{{"light", 1440}, {"dark", 390}}
	if os.Getenv("GW_SCREENSHOTS") != "" || slices.Contains([]string{"login", "edges", "edge", "push-dialog", "remove-dialog", "progress", "releases", "404"}, name) {
		return append(two, look{"dark", 1440}, look{"light", 390})
	}
	return two
}

// TestScreenshots looks at every page in every state with axe, in light and dark, on a desk and on a phone. Set
// GW_SCREENSHOTS to a directory to keep pictures of them.
func TestScreenshots(t *testing.T) {
	for _, s := range append(shots(), pressed()...) {
		t.Run(s.name, func(t *testing.T) {
			h := s.hub()
			b := newTab(t, h)
			if s.user != "" {
				b.as(h, s.user)
			}
			for _, l := range looks(s.name) {
				b.size(l.width, l.theme)
				b.show(s)
				b.accessible()
				b.fits()
				b.keep(fmt.Sprintf("%s-%s-%d.png", s.name, l.theme, l.width))
			}
			b.quiet()
		})
	}
}

// pressed are the states of pages that come by a click: a "+" in the target, then what is clicked.
func pressed() []shot {
	full := func() *hub { return newHub().fleetOf(28).pushable() }
	return []shot{
		{name: "push-dialog", hub: full, user: "admin", target: "/edges+#push-button+#dialog[open]"},
		{name: "remove-dialog", hub: full, user: "admin", target: "/edges/edge-ams3-000+a[href$='/remove']+#dialog[open]"},
		{name: "revoke-dialog", hub: full, user: "admin", target: "/edges/edge-ams3-000+a[href$='/revoke']+#dialog[open]"},
		{name: "menu", hub: full, user: "admin", target: "/edges+[popovertarget=menu-edge-blr1-001]+:popover-open"},
	}
}

// show brings the tab to a shot.
func (b *tab) show(s shot) {
	b.t.Helper()
	target, press, isPressed := strings.Cut(s.target, "+")
	switch {
	case s.form != nil:
		b.open("/login")
		fields := ""
		for _, f := range s.form {
			name, value, _ := strings.Cut(f, "=")
			fields += fmt.Sprintf("add(%q, %q);", name, value)
		}
		_ = evaluate[chromedp.Void](b, fmt.Sprintf(`{window.leaving = true; const f = document.createElement("form"); f.method = "post"; f.action = %q;
			const add = (n, v) => { const i = document.createElement("input"); i.type = "hidden"; i.name = n; i.value = v; f.append(i) }; %s document.body.append(f); setTimeout(() => f.submit()) }`, s.target, fields))
		b.until(fmt.Sprintf("!window.leaving && performance.getEntriesByType('navigation')[0].responseStatus === %d", s.status))
	default:
		b.open(target)
	}
	b.until("document.readyState === 'complete' && document.fonts.status === 'loaded' && (!document.getElementById('livestate') || !['Not live', 'Connecting…'].includes(document.getElementById('livestate').innerText))")
	if isPressed {
		what, then, _ := strings.Cut(press, "+")
		b.click(what)
		b.until(fmt.Sprintf("document.querySelector(%q)", then))
	}
}

// fits fails if the page is wider than the window.
func (b *tab) fits() {
	b.t.Helper()
	if over := evaluate[float64](b, "document.documentElement.scrollWidth - innerWidth"); over > 0 {
		b.t.Errorf("the page is %v px wider than the window", over)
	}
}

func (b *tab) keep(name string) {
	dir := os.Getenv("GW_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	b.check(err)
	b.check(os.MkdirAll(dir, 0o755))
	b.check(os.WriteFile(filepath.Join(dir, name), png, 0o644))
}

func TestDrawerOpensOnAPhone(t *testing.T) {
	h := newHub().fleetOf(2).pushable()
	b := newTab(t, h)
	b.as(h, "viewer")
	b.size(390, "light")
	b.open("/edges")
	b.click(".menu-btn")
	b.until("document.querySelector('#side:popover-open')")
	b.accessible()
	b.keep("drawer-light-390.png")
	b.click("#side a[href='/releases']")
	b.until("location.pathname === '/releases' && !document.querySelector('#side:popover-open')")
	b.quiet()
}
