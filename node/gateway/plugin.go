package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"gw/edgeplugin/pluginv1"
)

// Plugins are the running plugins of a table, by their place in Table.Plugins. Methods are called from any goroutine; those
// that ask a plugin block until it has answered or its own time is over.
type Plugins interface {
	// Hold keeps them running until Release; false: they have ended, and a newer table has others.
	Hold() bool
	Release()
	// Needs says which bodies a plugin wants to see, up to how many bytes.
	Needs(i int) (request, response bool, limit int64)
	// Request asks at pre_auth, auth or post_auth, Response at on_response, Chunk at on_stream_chunk. An error means that
	// the plugin could not be asked or did not answer.
	Request(ctx context.Context, i int, hook pluginv1.Hook, r *pluginv1.Request) (*pluginv1.Decision, error)
	Response(ctx context.Context, i int, r *pluginv1.Response) (*pluginv1.Decision, error)
	Chunk(ctx context.Context, i int, c *pluginv1.StreamChunk) (*pluginv1.StreamChunkDecision, error)
}

var (
	// errPlugin ends an answer that a plugin can't be asked about any more, or wants to end.
	errPlugin     = errors.New("a plugin ended the answer")
	errNoPlugins  = errors.New("no plugins run")
	errNoDecision = errors.New("the plugin gave no answer")
)

// hold takes a table whose plugins run. They can only have ended if a newer table is served.
func (x *exchange) hold() {
	for !x.serving.plugins.Hold() {
		now := x.g.serving.Load()
		if now == x.serving {
			return // then they fail, each in its way
		}
		if x.serving = now; now.plugins == nil {
			return
		}
	}
	x.held = true
}

func (x *exchange) preAuth() (outcome, bool) {
	return x.ask(x.target.hooks.preAuth, pluginv1.Hook_HOOK_PRE_AUTH)
}

func (x *exchange) postAuth() (outcome, bool) {
	return x.ask(x.target.hooks.postAuth, pluginv1.Hook_HOOK_POST_AUTH)
}

// pluginAuth asks the plugins that authenticate, until one knows the caller. over: the request has been answered.
func (x *exchange) pluginAuth() (out outcome, over bool) {
	if x.target.hooks == nil {
		return complete, false
	}
	return x.ask(x.target.hooks.auth, pluginv1.Hook_HOOK_AUTH)
}

// ask asks plugins about the request, one after the other, and does what they say. over: the request has been answered.
func (x *exchange) ask(chain []int, hook pluginv1.Hook) (out outcome, over bool) {
	for _, i := range chain {
		d, err := x.askOne(i, hook)
		if err != nil {
			if x.r.Context().Err() != nil {
				return x.end(clientGone), true
			}
			var r *bodyRefused
			if errors.As(err, &r) {
				return x.end(r.refusal), true
			}
			if x.fails(i, err) {
				return x.end(pluginFailed), true
			}
			continue
		}
		if d.Block {
			return x.blocked(d, hook), true
		}
		vouches := hook == pluginv1.Hook_HOOK_AUTH && d.Authenticated != nil
		if vouches {
			x.vouch(d.Authenticated)
		}
		if d.Modified {
			if r := x.modify(d); r != nil {
				return x.end(r), true
			}
		}
		if vouches {
			return complete, false
		}
	}
	return complete, false
}

// fails notes that a plugin failed; true: the request must not go on.
func (x *exchange) fails(i int, err error) bool {
	p := x.serving.table.plugins[i]
	err = fmt.Errorf("plugin %s: %w", p.Name, err)
	x.g.logger.Debug("a plugin could not be asked", "plugin", p.Name, "error", err, "request_id", x.id)
	if p.open() {
		return false
	}
	x.cause = err
	return true
}

// bodyRefused is a body that can't be read for a plugin.
type bodyRefused struct{ refusal *refusal }

func (b *bodyRefused) Error() string { return b.refusal.message }

func (x *exchange) askOne(i int, hook pluginv1.Hook) (*pluginv1.Decision, error) {
	if !x.held {
		return nil, errNoPlugins
	}
	r := x.shown()
	if wants, _, limit := x.serving.plugins.Needs(i); wants {
		if err := x.showBody(r, limit); err != nil {
			return nil, err
		}
	}
	d, err := x.serving.plugins.Request(x.r.Context(), i, hook, r)
	if err == nil && d == nil {
		err = errNoDecision
	}
	return d, err
}

// shown returns the request as plugins see it, without its body. Tokens of the gateway are not shown. Callers may send any
// bytes, but what isn't UTF-8 can't be told a plugin, and whoever sends it must not get by unseen.
func (x *exchange) shown() *pluginv1.Request {
	r := &pluginv1.Request{
		RequestId: x.id, ExchangeId: x.ownID(), Method: x.r.Method, Path: escapeInvalid(x.path), Query: escapeInvalid(x.r.URL.RawQuery),
		Host: validText(x.r.Host), RemoteAddress: x.r.RemoteAddr, Headers: shownHeaders(x.r.Header), Target: x.target.ref,
		Model: validText(x.model),
	}
	if x.app != nil {
		r.App = &pluginv1.App{Id: x.app.ID, Name: x.app.Name}
	}
	return r
}

func shownHeaders(h http.Header) []*pluginv1.Header {
	headers := make([]*pluginv1.Header, 0, len(h))
	for name, values := range h {
		if holdsToken(name, values) {
			continue
		}
		header := &pluginv1.Header{Name: validText(name), Values: make([]string, len(values))}
		for i, v := range values {
			header.Values[i] = validText(v)
		}
		headers = append(headers, header)
	}
	return headers
}

func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// escapeInvalid escapes the bytes of a path or query that are no UTF-8, so that it still means the same, and nothing else.
func escapeInvalid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if r, n := utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || n > 1 {
			b.WriteString(s[i : i+n])
			i += n
			continue
		}
		fmt.Fprintf(&b, "%%%02X", s[i])
		i++
	}
	return b.String()
}

// showBody reads the request's body for a plugin that wants bodies of up to limit bytes. Of a larger one, no more is read
// than shows that it is larger.
func (x *exchange) showBody(r *pluginv1.Request, limit int64) error {
	if !x.bodyRead && !x.hasBody() {
		return nil
	}
	if refused := x.beginBody(min(limit, x.g.maxBody), x.target.timeouts.idle); refused != nil {
		return &bodyRefused{refused}
	}
	if !x.bodyRead || int64(len(x.body)) > limit {
		r.BodyOmitted = true
		return nil
	}
	r.Body = x.body
	return nil
}

// modify changes the request as a plugin said.
func (x *exchange) modify(d *pluginv1.Decision) *refusal {
	leaveConnection(x.r.Header)
	if d.ReplaceBody {
		delete(x.r.Header, "Content-Encoding") // it was the other body's
	}
	editHeader(x.r.Header, d)
	if !d.ReplaceBody {
		return nil
	}
	if x.hasBody() {
		if r := x.readBody(x.target.timeouts.idle); r != nil { // or it would be taken for the next request
			return r
		}
	}
	if !x.takeMemory(len(d.Body)) {
		return overloaded
	}
	x.body, x.bodyRead = d.Body, true
	return nil
}

// editHeader removes and sets what a plugin says, but for headers that the gateway has to decide about.
func editHeader(h http.Header, d *pluginv1.Decision) {
	for _, name := range d.RemoveHeaders {
		if name = http.CanonicalHeaderKey(name); editable(name) {
			delete(h, name)
		}
	}
	for _, header := range d.Headers {
		name := http.CanonicalHeaderKey(header.Name)
		if !httpguts.ValidHeaderFieldName(name) || !editable(name) {
			continue
		}
		var values []string
		for _, v := range header.Values {
			if httpguts.ValidHeaderFieldValue(v) {
				values = append(values, v)
			}
		}
		if len(values) > 0 {
			h[name] = values
		}
	}
}

func editable(name string) bool {
	return name != "Host" && name != "Content-Length" && !hopByHop(name) && !strings.HasPrefix(name, gatewayHeaders)
}

// vouch takes a plugin's word for who the caller is. The credential it was known by stays here, unless the plugin sets it
// itself.
func (x *exchange) vouch(app *pluginv1.App) {
	targets := app.Targets
	if len(targets) == 0 {
		targets = []string{x.target.ref}
	}
	x.cuts = x.g.streams.cuts.Load()
	x.app = NewApp(app.Id, app.Name, "", targets, app.Policies)
	x.vouched = true
	x.dropCredentials()
}

// blocked answers as a plugin said, in place of the upstream.
func (x *exchange) blocked(d *pluginv1.Decision, hook pluginv1.Hook) outcome {
	status := int(d.StatusCode)
	if status < 200 || status > 599 {
		status = http.StatusForbidden
		if hook == pluginv1.Hook_HOOK_AUTH {
			status = http.StatusUnauthorized
		}
	}
	if len(d.ResponseBody) == 0 && (status >= 400 || d.ErrorMessage != "") {
		r := &refusal{status: max(status, 400), class: classPermission, code: "blocked_by_plugin", message: d.ErrorMessage}
		if status >= 500 {
			r.class = classServer
		}
		if r.message == "" {
			r.message = "A plugin refused the request."
		}
		editHeader(x.w.Header(), d)
		return x.end(r)
	}
	if !x.takeMemory(len(d.ResponseBody)) {
		return x.end(overloaded)
	}
	if status >= 400 {
		x.code = "blocked_by_plugin"
	}
	h := x.w.Header()
	editHeader(h, d)
	x.idHeader(h)
	x.lastOfConnection()
	x.leaveBody()
	return x.whole(status, d.ResponseBody)
}

// whole writes an answer of known length; its header is there but for the length.
func (x *exchange) whole(status int, body []byte) outcome {
	if status != http.StatusNoContent && status != http.StatusNotModified {
		x.w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	x.status, x.wroteHeader = status, true
	x.w.WriteHeader(status)
	if x.r.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified {
		return complete
	}
	if err := x.passWhole(body); err != nil {
		x.code, x.aborted = clientGone.code, true
		return abort
	}
	return complete
}

// passWhole writes an answer's body to a caller who has to take every piece in time, though no watchdog may run.
func (x *exchange) passWhole(body []byte) error {
	rc := http.NewResponseController(x.w)
	for piece := range slices.Chunk(body, copyBuffer) {
		_ = rc.SetWriteDeadline(time.Now().Add(x.target.timeouts.idle))
		n, err := x.w.Write(piece)
		x.bytes += int64(n)
		if err != nil {
			return err
		}
	}
	if err := rc.Flush(); err != nil { // while the time counts
		return err
	}
	return rc.SetWriteDeadline(time.Time{})
}

// pluginsFirst asks the plugins of the LLM that a /v1 request names, if any are to be asked before the caller is known:
// only then is a body read of a caller nobody knows. over: the request has been answered.
func (x *exchange) pluginsFirst(p path) (out outcome, over bool) {
	if !x.serving.table.pluginsAskFirst || under(p.decoded, openAIPrefix+"/models") || !x.hasBody() || x.r.Header["Upgrade"] != nil {
		return complete, false
	}
	m, refused := x.bodyModel()
	if refused == tooLarge || refused == overloaded || refused == clientGone || refused == clientSlow || refused == badFraming {
		return x.end(refused), true
	}
	name, model, ok := strings.Cut(m.Name, "/")
	t := x.serving.table.llms[name]
	if refused != nil || !ok || t == nil || t.hooks == nil {
		return complete, false // what is wrong with it is said to those who may know
	}
	x.aim(t)
	x.model = model
	if out, over := x.preAuth(); over {
		return out, true
	}
	return x.pluginAuth()
}
