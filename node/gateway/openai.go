package gateway

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"gw/node/gateway/llm"
)

// serveOpenAI serves /v1/: the OpenAI API over all LLMs the app may use. The body's model says which.
func (x *exchange) serveOpenAI(p path) outcome {
	if out, over := x.pluginsFirst(p); over {
		return out
	}
	if r := x.authenticate(); r != nil {
		return x.end(r)
	}
	if len(x.app.policies) > 0 {
		return x.end(policyMissing)
	}
	if x.r.Header["Upgrade"] != nil {
		return x.end(badUpgrade)
	}
	const models = openAIPrefix + "/models"
	if under(p.decoded, models) {
		return x.listModels(strings.TrimPrefix(p.decoded[len(models):], "/"))
	}
	if !x.app.llms {
		return x.end(forbidden) // before its body takes up memory
	}
	if !x.hasBody() {
		return x.end(modelMissing)
	}
	m, r := x.bodyModel()
	if r != nil {
		return x.end(r)
	}
	name, model, ok := strings.Cut(m.Name, "/")
	if !ok {
		return x.end(modelNotFound)
	}
	t := x.serving.table.llms[name]
	if t == nil {
		return x.end(x.noLLM(name, modelNotFound))
	}
	x.model = model
	if !x.app.targets.allow(t) || !t.allowsModel(model) {
		return x.end(modelNotFound)
	}
	x.body = m.CutPrefix(x.body, name+"/")
	rt := x.aim(t)
	if t.hooks != nil {
		if out, over := x.postAuth(); over {
			return out
		}
	}
	return x.forward(rt, p.escaped)
}

// checkModel refuses a request for a model that the LLM does not allow. A body that can't be searched for one is refused
// too, lest it name one.
func (x *exchange) checkModel(t *target) *refusal {
	if !x.hasBody() {
		return nil
	}
	m, r := x.bodyModel()
	if r == modelMissing {
		return nil
	}
	if r != nil {
		return r
	}
	x.model = m.Name
	if !t.allowsModel(m.Name) {
		return modelNotFound
	}
	return nil
}

// bodyModel reads the body and finds the model it names.
func (x *exchange) bodyModel() (llm.Model, *refusal) {
	for _, encoding := range x.r.Header["Content-Encoding"] {
		if !strings.EqualFold(encoding, "identity") {
			return llm.Model{}, badMedia
		}
	}
	if r := x.readBody(llmTimeouts.idle); r != nil {
		return llm.Model{}, r
	}
	kind := mediaType(x.r.Header)
	var m llm.Model
	var err error
	switch {
	case len(x.body) == 0:
		err = llm.ErrNoModel
	case kind == "multipart/form-data":
		m, err = llm.FindFormModel(x.body, x.r.Header.Get("Content-Type"))
	case kind == "application/json" || strings.HasSuffix(kind, "+json") || kind == "" || kind == "text/plain":
		// Some vendors read JSON whatever it is said to be.
		m, err = llm.FindModel(x.body)
	default:
		return llm.Model{}, badMedia
	}
	switch {
	case err == nil:
		return m, nil
	case errors.Is(err, llm.ErrNoModel):
		return llm.Model{}, modelMissing
	case errors.Is(err, llm.ErrManyModels):
		return llm.Model{}, modelAmbiguous
	}
	return llm.Model{}, badBody
}

// listModels answers /v1/models, or with want /v1/models/{id}, with what the token may call and the table lists by name.
func (x *exchange) listModels(want string) outcome {
	if x.r.Method != http.MethodGet && x.r.Method != http.MethodHead {
		x.w.Header()["Allow"] = []string{"GET, HEAD"}
		return x.end(badMethod)
	}
	body := []byte(`{"object":"list","data":[`)
	empty := len(body)
	for _, t := range x.serving.table.targets {
		if t.kind != kindLLM || !x.app.targets.allow(t) {
			continue
		}
		for _, m := range t.listed {
			if want == m.id {
				return x.json(m.json)
			}
			if len(body) > empty {
				body = append(body, ',')
			}
			body = append(body, m.json...)
		}
	}
	if want != "" {
		return x.end(modelNotFound)
	}
	return x.json(append(body, "]}"...))
}

// json answers with a body of the gateway's own.
func (x *exchange) json(body []byte) outcome {
	h := x.w.Header()
	x.idHeader(h)
	h["X-Request-Id"] = x.ids[:]
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	x.leaveBody()
	x.status, x.wroteHeader = http.StatusOK, true
	x.w.WriteHeader(http.StatusOK)
	if x.r.Method != http.MethodHead {
		n, _ := x.w.Write(body) // a caller that is gone does not miss it
		x.bytes += int64(n)
	}
	return complete
}
