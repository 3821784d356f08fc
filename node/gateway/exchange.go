package gateway

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"gw/node/gateway/llm"
)

// exchange is one request and its answer. It belongs to the goroutine that serves the request, but for the fields under
// mu.
type exchange struct {
	g       *Gateway
	w       http.ResponseWriter
	r       *http.Request
	serving *serving
	start   time.Time
	id      string
	ids     [1]string // id, as a header's values
	own     string    // the gateway's own name for it, which no caller has chosen; "": not needed yet
	openAI  bool      // errors are shaped as the OpenAI dialect does

	// What was found out about the request.
	path       string // as sent, for the log
	target     *target
	series     *targetMetrics
	app        *App
	hash       [32]byte // of the token, if app is set
	cuts       uint64   // how often streams had been cut when the token was checked
	model      string
	body       []byte // the request's body, as far as it was read before forwarding
	bodyRead   bool   // body is all of it
	bodyMemory int64  // what the request holds of Gateway.memory
	chunk      uint64 // pieces of the answer shown to plugins
	held       bool   // serving.plugins are held for it
	vouched    bool   // a plugin said who the app is, no token

	// What became of it.
	upstream       *upstream
	status         int
	bytes          int64
	code           string // why it was refused or broke
	cause          error  // more of that, for the log
	aborted        bool
	wroteHeader    bool
	answered       bool // the upstream did
	upstreamFailed bool
	lasting        bool        // it was among the streams
	scan           llm.Scanner // of what the upstream sent
	border         llm.Border  // of what the caller was sent

	cancel context.CancelCauseFunc
	dog    *watchdog
	up     upload

	mu       sync.Mutex // orders what other goroutines write to the client before the answer begins
	answerOn bool       // the answer has begun, or the request is over
}

// ServeHTTP serves one request. It takes r over: it edits r.Header in place. An answer that breaks off is reported to the
// server by panicking with http.ErrAbortHandler, as net/http wants it.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{g: g, w: w, r: r, start: g.now(), series: g.noRoute}
	g.begin()
	defer x.finish()
	x.identify()
	if x.serve() == abort {
		panic(http.ErrAbortHandler)
	}
}

// outcome is how serving ended.
type outcome bool

const (
	complete outcome = false
	// abort wants the client to see that the answer is cut off.
	abort outcome = true
)

// finish accounts for the exchange on every way out.
func (x *exchange) finish() {
	end := x.g.now()
	x.g.vitals.count(x, end.Sub(x.start))
	x.record(end.Sub(x.start).Seconds())
	x.log(end)
	if x.bodyMemory > 0 {
		x.g.memory.Release(x.bodyMemory)
	}
	if x.held {
		x.serving.plugins.Release()
	}
	x.g.end()
}

// serve finds out who serves the request and lets them.
func (x *exchange) serve() outcome {
	raw, ok := rawPath(x.r.RequestURI, x.r.URL)
	x.path = raw
	x.openAI = under(raw, openAIPrefix) || under(raw, llmPrefix)
	x.serving = x.g.serving.Load()
	if x.serving != nil && x.serving.plugins != nil {
		x.hold()
	}
	if x.serving == nil {
		return x.end(noRelease)
	}
	p, clean := cleanPath(raw)
	if !ok || !clean || x.r.Method == http.MethodConnect {
		return x.end(badPath)
	}
	if !validQuery(x.r.URL.RawQuery) {
		return x.end(badQuery)
	}
	route, ok := x.serving.table.match(x.r.Host, p, x.r.Method)
	if !ok {
		return x.end(badPath)
	}
	switch route.surface {
	case surfaceAPI:
		x.openAI = false
		return x.serveAPI(p, route)
	case surfaceLLM:
		x.openAI = true
		return x.serveLLM(p, route)
	case surfaceOpenAI:
		x.openAI = true
		return x.serveOpenAI(p)
	case surfaceMethod:
		x.w.Header()["Allow"] = []string{route.allow}
		return x.end(badMethod)
	}
	return x.end(notFound)
}

// end answers with a refusal. A caller who is gone gets none: without an abort, net/http would answer for the gateway.
func (x *exchange) end(r *refusal) outcome {
	x.refuse(r)
	return outcome(r == clientGone)
}

// aim settles on the target.
func (x *exchange) aim(t *target) *runtime {
	rt := &x.serving.runtimes[t.index]
	x.target, x.series = t, x.g.seriesOf(rt, t)
	return rt
}

func (x *exchange) serveAPI(p path, route route) outcome {
	t := route.target
	rt := x.aim(t)
	if t.hooks != nil {
		if out, over := x.preAuth(); over {
			return out
		}
	}
	if !t.keyless {
		if out, over := x.pluginAuth(); over {
			return out
		}
		if r := x.authenticate(); r != nil {
			return x.end(r)
		}
		if r := x.authorize(t); r != nil {
			return x.end(r)
		}
	}
	rest := p.escaped
	if t.stripPrefix {
		rest = p.after(route.prefix)
	}
	if t.hooks != nil {
		if out, over := x.postAuth(); over {
			return out
		}
	}
	if x.wantsWebSocket() {
		return x.upgrade(rt, rest)
	}
	return x.forward(rt, rest)
}

func (x *exchange) serveLLM(p path, route route) outcome {
	t := route.target
	if t != nil && t.hooks != nil {
		x.aim(t)
		if out, over := x.preAuth(); over {
			return out
		}
		if out, over := x.pluginAuth(); over {
			return out
		}
	}
	if r := x.authenticate(); r != nil {
		return x.end(r)
	}
	if t == nil {
		name, _, _ := strings.Cut(strings.TrimPrefix(p.decoded[len(llmPrefix):], "/"), "/")
		return x.end(x.noLLM(name, llmNotFound))
	}
	rt := x.aim(t)
	if r := x.authorize(t); r != nil {
		return x.end(r)
	}
	if x.r.Header["Upgrade"] != nil {
		return x.end(badUpgrade)
	}
	if len(t.models) > 0 {
		if r := x.checkModel(t); r != nil {
			return x.end(r)
		}
	}
	if t.hooks != nil {
		if out, over := x.postAuth(); over {
			return out
		}
	}
	return x.forward(rt, p.after(route.prefix))
}

// noLLM refuses a request for an LLM that the table lacks: as not there, unless the app was given it by name.
func (x *exchange) noLLM(name string, unknown *refusal) *refusal {
	if len(x.app.policies) > 0 || x.app.targets.has("LLM/"+name) {
		return policyMissing
	}
	return unknown
}

// identify gives the request its ID: the caller's, if it is one that can stand anywhere, or a new one.
func (x *exchange) identify() {
	if given := x.r.Header["X-Request-Id"]; len(given) == 1 && saneID(given[0]) {
		x.id = given[0]
	} else {
		x.id = newID()
	}
	x.ids[0] = x.id
}

// ownID is how plugins tell the exchange from every other.
func (x *exchange) ownID() string {
	if x.own == "" {
		x.own = newID()
	}
	return x.own
}

func newID() string {
	var b [16]byte
	var text [32]byte
	binary.LittleEndian.PutUint64(b[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(b[8:], rand.Uint64())
	hex.Encode(text[:], b[:])
	return string(text[:])
}

func (x *exchange) idHeader(h http.Header) { h["X-Gw-Request-Id"] = x.ids[:] }

func saneID(s string) bool {
	if len(s) == 0 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return true
}
