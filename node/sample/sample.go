// Package sample is an upstream to try gw with: an OpenAI-compatible vendor of one made-up model, and a small REST API.
package sample

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Names of what the upstream offers.
const (
	ChatModel      = "parrot-1"
	EmbeddingModel = "parrot-embed-1"
)

// maxBody bounds what is read of a request.
const maxBody = 4 << 20

// Handler serves the vendor at /v1/, the REST API at /orders, failures at /fail and a web hook at /alerts, which lists what
// it was told. Requests to the vendor must carry vendorKey as their bearer token. Answers depend on nothing but the request, less ID and time.
func Handler(vendorKey string) http.Handler {
	mux := http.NewServeMux()
	v := vendor{key: vendorKey}
	mux.HandleFunc("POST /v1/chat/completions", v.guard(v.chat))
	mux.HandleFunc("POST /v1/embeddings", v.guard(v.embeddings))
	mux.HandleFunc("GET /v1/models", v.guard(v.models))
	mux.HandleFunc("/v1/", v.guard(func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "invalid_request_error", "unknown_url", "No such endpoint: "+r.Method+" "+r.URL.Path)
	}))
	mux.HandleFunc("GET /orders", listOrders)
	mux.HandleFunc("GET /orders/{id}", getOrder)
	mux.HandleFunc("POST /orders", createOrder)
	mux.HandleFunc("/fail", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "The sample upstream fails here on purpose.", http.StatusServiceUnavailable)
	})
	hook := new(webHook)
	mux.HandleFunc("POST /alerts", hook.take)
	mux.HandleFunc("GET /alerts", hook.list)
	return mux
}

type vendor struct{ key string }

func (v vendor) guard(next http.HandlerFunc) http.HandlerFunc {
	want := "Bearer " + v.key
	return func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte(want)) != 1 {
			refuse(w, http.StatusUnauthorized, "invalid_request_error", "invalid_api_key", "The sample vendor wants its own key.")
			return
		}
		next(w, r)
	}
}

type chatRequest struct {
	Model    string `json:"model"`
	Messages []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	} `json:"messages"`
	Stream        bool `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

// chat repeats the last message, word by word.
func (v vendor) chat(w http.ResponseWriter, r *http.Request) {
	var req chatRequest
	if !decode(w, r, &req) || !knows(w, req.Model, ChatModel) {
		return
	}
	if len(req.Messages) == 0 {
		refuse(w, http.StatusBadRequest, "invalid_request_error", "missing_messages", "messages must hold at least one message.")
		return
	}
	var said string
	if json.Unmarshal(req.Messages[len(req.Messages)-1].Content, &said) != nil {
		said = "something I can't read"
	}
	words := append([]string{"You", "said:"}, strings.Fields(said)...)
	prompt := 0
	for _, m := range req.Messages {
		prompt += len(strings.Fields(string(m.Content)))
	}
	used := usage{PromptTokens: prompt, CompletionTokens: len(words), TotalTokens: prompt + len(words)}
	id := fmt.Sprintf("chatcmpl-%x", time.Now().UnixNano())
	if req.Stream {
		streamChat(w, id, words, used, req.StreamOptions.IncludeUsage)
		return
	}
	reply(w, http.StatusOK, map[string]any{
		"id": id, "object": "chat.completion", "created": time.Now().Unix(), "model": req.Model,
		"choices": []any{map[string]any{
			"index": 0, "finish_reason": "stop", "logprobs": nil,
			"message": map[string]any{"role": "assistant", "content": strings.Join(words, " "), "refusal": nil},
		}},
		"usage": used,
	})
}

// streamChat sends a word per event, flushing each.
func streamChat(w http.ResponseWriter, id string, words []string, used usage, includeUsage bool) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	rc := http.NewResponseController(w)
	send := func(choices []any, u *usage) bool {
		event := map[string]any{"id": id, "object": "chat.completion.chunk", "created": time.Now().Unix(), "model": ChatModel, "choices": choices}
		if includeUsage {
			event["usage"] = u
		}
		b, err := json.Marshal(event)
		if err != nil {
			return false
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", b); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	choice := func(delta map[string]any, finish any) []any {
		return []any{map[string]any{"index": 0, "delta": delta, "finish_reason": finish}}
	}
	for i, word := range words {
		delta := map[string]any{"content": word}
		if i == 0 {
			delta["role"] = "assistant"
		} else {
			delta["content"] = " " + word
		}
		if !send(choice(delta, nil), nil) {
			return
		}
	}
	if !send(choice(map[string]any{}, "stop"), nil) || includeUsage && !send([]any{}, &used) {
		return
	}
	fmt.Fprint(w, "data: [DONE]\n\n")
}

// embeddings returns eight numbers per input, made from its hash.
func (v vendor) embeddings(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Model string          `json:"model"`
		Input json.RawMessage `json:"input"`
	}
	if !decode(w, r, &req) || !knows(w, req.Model, EmbeddingModel) {
		return
	}
	var inputs []string
	var one string
	if json.Unmarshal(req.Input, &one) == nil {
		inputs = []string{one}
	} else if json.Unmarshal(req.Input, &inputs) != nil {
		refuse(w, http.StatusBadRequest, "invalid_request_error", "invalid_input", "input must be a string or a list of strings.")
		return
	}
	data, tokens := make([]any, len(inputs)), 0
	for i, input := range inputs {
		h := fnv.New64a()
		h.Write([]byte(input))
		sum, vector := h.Sum64(), make([]float64, 8)
		for j := range vector {
			vector[j] = float64(int8(sum>>(8*j))) / 128
		}
		data[i] = map[string]any{"object": "embedding", "index": i, "embedding": vector}
		tokens += len(strings.Fields(input))
	}
	reply(w, http.StatusOK, map[string]any{"object": "list", "model": req.Model, "data": data, "usage": map[string]int{"prompt_tokens": tokens, "total_tokens": tokens}})
}

func (v vendor) models(w http.ResponseWriter, _ *http.Request) {
	model := func(id string) any {
		return map[string]any{"id": id, "object": "model", "created": 1700000000, "owned_by": "gw-sample"}
	}
	reply(w, http.StatusOK, map[string]any{"object": "list", "data": []any{model(ChatModel), model(EmbeddingModel)}})
}

func knows(w http.ResponseWriter, model, want string) bool {
	if model != want {
		refuse(w, http.StatusNotFound, "invalid_request_error", "model_not_found", fmt.Sprintf("The model %q does not exist here; %q does.", model, want))
		return false
	}
	return true
}

type order struct {
	ID    int    `json:"id"`
	Item  string `json:"item"`
	Count int    `json:"count"`
}

var orders = []order{{1, "espresso", 2}, {2, "croissant", 1}, {3, "orange juice", 4}}

func listOrders(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, orders) }

func getOrder(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil || id < 1 || id > len(orders) {
		reply(w, http.StatusNotFound, map[string]string{"error": "no such order"})
		return
	}
	reply(w, http.StatusOK, orders[id-1])
}

// createOrder returns what it was given under the next number; it keeps nothing.
func createOrder(w http.ResponseWriter, r *http.Request) {
	var o order
	if !decode(w, r, &o) {
		return
	}
	o.ID = len(orders) + 1
	reply(w, http.StatusCreated, o)
}

func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(into); err != nil {
		refuse(w, http.StatusBadRequest, "invalid_request_error", "invalid_json", "The body is not the JSON expected here.")
		return false
	}
	return true
}

func refuse(w http.ResponseWriter, status int, kind, code, message string) {
	reply(w, status, map[string]any{"error": map[string]any{"message": message, "type": kind, "param": nil, "code": code}})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) // the only error is a caller that went away
}

const (
	maxAlerts = 100      // kept
	maxAlert  = 64 << 10 // bytes of one
)

// webHook keeps what it is told.
type webHook struct {
	mu     sync.Mutex
	alerts []json.RawMessage
}

func (h *webHook) take(w http.ResponseWriter, r *http.Request) {
	alert, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAlert))
	if err != nil || !json.Valid(alert) {
		http.Error(w, "want a JSON document of at most 64 KiB", http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alerts = append(h.alerts, alert)
	h.alerts = h.alerts[max(0, len(h.alerts)-maxAlerts):]
	w.WriteHeader(http.StatusNoContent)
}

func (h *webHook) list(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(append([]json.RawMessage{}, h.alerts...)); err != nil {
		return // the caller is gone
	}
}
