package gateway

import (
	"math/rand/v2"
	"net/http"
	"time"

	"gw/node/gateway/llm"
)

// kind is what a target is.
type kind uint8

const (
	kindAPI kind = iota
	kindLLM
)

func (k kind) String() string {
	if k == kindLLM {
		return "LLM"
	}
	return "API"
}

// every is how an app grants all targets of the kind.
func (k kind) every() string {
	if k == kindLLM {
		return "LLM/*"
	}
	return "API/*"
}

// target is one resource that requests can be sent to, resolved so that serving only follows pointers.
type target struct {
	// index is its place among the table's targets.
	index int
	kind  kind
	name  string
	ref   string // "API/orders"
	hooks *hooks // nil: no plugin is asked

	keyless     bool
	stripPrefix bool
	request     edits
	response    edits
	credential  *credential
	upstreams   []upstream
	weights     uint32 // sum
	timeouts    timeouts

	// Of an LLM: the models callers may name (none: every model), and those of them that are listed.
	models []string
	listed []listedModel
}

// upstream is one place requests go to.
type upstream struct {
	scheme, host string
	// path is put before a request's path: escaped, without a final slash.
	path string
	// upTo is the sum of the weights up to and including this one.
	upTo uint32
}

// timeouts bound the parts of one exchange.
type timeouts struct{ connect, header, idle time.Duration }

// credential is what the upstream is presented.
type credential struct{ secret, header, prefix string }

// listedModel is one entry of /v1/models.
type listedModel struct {
	id   string // "openai/gpt-5"
	json []byte
}

func newListedModel(owner, model string) listedModel {
	id := owner + "/" + model
	return listedModel{id: id, json: llm.AppendModel(nil, id, owner)}
}

// pick chooses an upstream with a probability of its weight over their sum.
func (t *target) pick() int {
	if len(t.upstreams) == 1 {
		return 0
	}
	n := rand.Uint32N(t.weights)
	for i := range t.upstreams {
		if n < t.upstreams[i].upTo {
			return i
		}
	}
	return 0
}

// allowsModel reports whether callers may name a model.
func (t *target) allowsModel(model string) bool {
	if len(t.models) == 0 {
		return true
	}
	for _, pattern := range t.models {
		if llm.MatchModel(pattern, model) {
			return true
		}
	}
	return false
}

// edits are changes to a header. Its value slices are shared by requests and have no room to grow.
type edits struct {
	remove []string
	set    []field
	add    []field
}

type field struct {
	name   string
	values []string
}

func (e *edits) apply(h http.Header) {
	for _, name := range e.remove {
		delete(h, name)
	}
	for i := range e.set {
		h[e.set[i].name] = e.set[i].values
	}
	for i := range e.add {
		old := h[e.add[i].name]
		h[e.add[i].name] = append(old[:len(old):len(old)], e.add[i].values...)
	}
}
