package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// vendor is a vendor of the OpenAI dialect. It remembers the last request.
type vendor struct {
	last   *http.Request
	body   string
	calls  atomic.Int64
	before func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
}

func (v *vendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	v.last, v.body = r, string(b)
	v.calls.Add(1)
	if v.before != nil && v.before(w, r) {
		return
	}
	var req struct {
		Model  string
		Stream bool
	}
	_ = json.Unmarshal(b, &req)
	if !req.Stream {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":"c","object":"chat.completion","model":%q,"choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},`+
			`"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}`, req.Model)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for _, word := range []string{"Hel", "lo"} {
		fmt.Fprintf(w, "data: {\"object\":\"chat.completion.chunk\",\"model\":%q,\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}]}\n\n", req.Model, word)
		w.(http.Flusher).Flush()
	}
	fmt.Fprint(w, "data: {\"object\":\"chat.completion.chunk\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":4}}\n\ndata: [DONE]\n\n")
}

func llmEdge(t *testing.T, v *vendor) (*edge, openai.Client, string) {
	t.Helper()
	up := upstreamServer(t, v.ServeHTTP)
	e := start(t, Config{Secret: func(name string) (string, bool) { return "sk-vendor", name == "vendor-key" }, MaxRequestBody: 1 << 20},
		llmOf("acme", "base_url: "+up+"/proxy\ncredential: {secret: vendor-key}\nmodels: [{name: gpt-5}, {name: 'org/tiny'}, {name: 'dated-*'}]")+
			llmOf("hidden", "base_url: "+up+"\nmodels: [{name: x}]")+
			llmOf("free", "base_url: "+up))
	token := e.tokens.issue("LLM/acme", "LLM/free")
	return e, openai.NewClient(option.WithBaseURL(e.url+"/v1"), option.WithAPIKey(token), option.WithMaxRetries(0)), token
}

func question(model string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")}}
}

func TestTheOpenAISDK(t *testing.T) {
	v := &vendor{}
	e, client, _ := llmEdge(t, v)
	for _, model := range []string{"gpt-5", "org/tiny", "dated-2026"} {
		answer, err := client.Chat.Completions.New(t.Context(), question("acme/"+model), option.WithHeader("OpenAI-Organization", "theirs"))
		if err != nil {
			t.Fatal(err)
		}
		if answer.Choices[0].Message.Content != "Hello" || answer.Model != model {
			t.Errorf("got %+v", answer)
		}
		if v.last.Header.Get("Authorization") != "Bearer sk-vendor" || v.last.RequestURI != "/proxy/v1/chat/completions" ||
			v.last.Header.Get("Openai-Organization") != "" || v.last.Header.Get("Accept-Encoding") != "identity" || v.last.Header.Get("X-Forwarded-For") != "" {
			t.Errorf("the vendor got %s %v", v.last.RequestURI, v.last.Header)
		}
	}
	stream := client.Chat.Completions.NewStreaming(t.Context(), question("free/any/thing"))
	text := ""
	for stream.Next() {
		for _, c := range stream.Current().Choices {
			text += c.Delta.Content
		}
	}
	if err := stream.Err(); err != nil || text != "Hello" || !strings.Contains(v.body, `"model":"any/thing"`) {
		t.Errorf("streamed %q, %v", text, err)
	}
	for _, line := range e.lines(t)[3:] {
		if line["target"] != "LLM/free" || line["prompt_tokens"] != 7.0 || line["completion_tokens"] != 4.0 || line["model"] != "any/thing" {
			t.Errorf("log: %v", line)
		}
	}
	if n := testutil.ToFloat64(e.metrics.tokens.WithLabelValues("acme", "prompt")); n != 9 {
		t.Errorf("%v prompt tokens", n)
	}
}

func TestTheOpenAISDKSeesErrors(t *testing.T) {
	v := &vendor{}
	e, client, _ := llmEdge(t, v)
	fails := func(c openai.Client, model string, status int, code string) {
		t.Helper()
		_, err := c.Chat.Completions.New(t.Context(), question(model))
		var apiErr *openai.Error
		if !errors.As(err, &apiErr) || apiErr.StatusCode != status || apiErr.Code != code {
			t.Errorf("%s: got %v, want %d %s", model, err, status, code)
		}
	}
	for _, model := range []string{"acme/other", "hidden/x", "nobody/x", "gpt-5", "free"} {
		fails(client, model, 404, "model_not_found")
	}
	stranger := openai.NewClient(option.WithBaseURL(e.url+"/v1"), option.WithAPIKey("sk-foreign"), option.WithMaxRetries(2))
	fails(stranger, "acme/gpt-5", 401, "invalid_api_key")
	if v.calls.Load() != 0 {
		t.Errorf("%d refused requests reached the vendor", v.calls.Load())
	}
	v.before = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Ratelimit-Limit-Requests", "1")
		w.WriteHeader(429)
		io.WriteString(w, `{"error":{"message":"slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}`)
		return true
	}
	fails(client, "acme/gpt-5", 429, "rate_limit_exceeded")

	// A retry that helps: the SDK obeys Retry-After of a refusal that will pass.
	v.before = nil
	e.tokens.fail = &Unavailable{}
	patient := openai.NewClient(option.WithBaseURL(e.url+"/v1"), option.WithAPIKey(e.tokens.issue("*")), option.WithMaxRetries(1),
		option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
			resp, err := next(r)
			e.tokens.mu.Lock()
			e.tokens.fail = nil
			e.tokens.mu.Unlock()
			return resp, err
		}))
	if _, err := patient.Chat.Completions.New(t.Context(), question("acme/gpt-5")); err != nil {
		t.Error(err)
	}
}

func TestAStreamThatBreaksRaisesAnErrorInTheSDK(t *testing.T) {
	frame := "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"}}]}\n\n"
	for name, sent := range map[string]string{"between events": frame, "within one": frame + "data: {\"choi"} {
		v := &vendor{before: func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, sent)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}}
		e, client, _ := llmEdge(t, v)
		stream := client.Chat.Completions.NewStreaming(t.Context(), question("acme/gpt-5"))
		n := 0
		for stream.Next() {
			n++
		}
		if n != 1 || stream.Err() == nil {
			t.Errorf("%s: %d chunks, error %v", name, n, stream.Err())
		}
		if name == "between events" && !strings.Contains(fmt.Sprint(stream.Err()), "broke off") {
			t.Errorf("%s: error %v", name, stream.Err())
		}
		if line := e.lines(t)[0]; line["error"] != "upstream_broken" || line["aborted"] != true || line["status"] != 200.0 {
			t.Errorf("log: %v", line)
		}
		if n := testutil.ToFloat64(e.metrics.answers.WithLabelValues("acme", "absent")); n != 1 {
			t.Errorf("%v answers without usage", n)
		}
	}
}

func TestModelsAreListedPerToken(t *testing.T) {
	e, client, token := llmEdge(t, &vendor{})
	page, err := client.Models.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, m := range page.Data {
		ids = append(ids, m.ID)
	}
	if got := strings.Join(ids, " "); got != "acme/gpt-5 acme/org/tiny" {
		t.Errorf("listed %s", got)
	}
	for _, id := range []string{"acme/gpt-5", "acme/org/tiny"} {
		m, err := client.Models.Get(t.Context(), id)
		if err != nil || m.ID != id || m.OwnedBy != "acme" {
			t.Errorf("%s: %+v, %v", id, m, err)
		}
	}
	if r := send(t, "GET", e.url+"/v1/models/acme/gpt-5", "", "Authorization", "Bearer "+token); r.status != 200 {
		t.Errorf("unescaped: %+v", r)
	}
	if _, err := client.Models.Get(t.Context(), "hidden/x"); err == nil {
		t.Error("a model of another LLM is shown")
	}
	send(t, "POST", e.url+"/v1/models", "{}", "X-Api-Key", token).want(t, 405, "method_not_allowed")
	none := e.tokens.issue()
	if r := send(t, "GET", e.url+"/v1/models", "", "X-Api-Key", none); r.body != `{"object":"list","data":[]}` {
		t.Errorf("got %s", r.body)
	}
}

func TestLLMSurfaceIsByteExact(t *testing.T) {
	v := &vendor{}
	e, _, token := llmEdge(t, v)
	body := " {\"model\" : \"gpt-5\",\n \"x\":\t1.50, \"é\":\"\\u00e9\"} "
	r := send(t, "POST", e.url+"/llm/acme/v1/chat/completions?a=%20&b", body, "Authorization", "Bearer "+token,
		"Content-Type", "application/json; charset=utf-8", "X-Goog-Api-Key", "mine", "Anthropic-Version", "1")
	if r.status != 200 || v.body != body || v.last.RequestURI != "/proxy/v1/chat/completions?a=%20&b" {
		t.Errorf("%d, the vendor got %s %q", r.status, v.last.RequestURI, v.body)
	}
	if v.last.Header.Get("X-Goog-Api-Key") != "" || v.last.Header.Get("Anthropic-Version") != "1" || r.header.Get("X-Gw-Request-Id") == "" {
		t.Errorf("the vendor got %v", v.last.Header)
	}
	body = " {\"model\" : \"acme\\/gpt-5\",\n \"x\":\t1.50} "
	send(t, "POST", e.url+"/v1/responses", body, "X-Api-Key", token)
	if want := strings.Replace(body, `acme\/`, "", 1); v.body != want {
		t.Errorf("the vendor got %q", v.body)
	}
	send(t, "POST", e.url+"/llm/free/v1/files", "\x00\x01", "X-Api-Key", token, "Content-Type", "application/octet-stream").want(t, 200, "")
	if v.body != "\x00\x01" {
		t.Errorf("the vendor got %q", v.body)
	}
	send(t, "DELETE", e.url+"/llm/acme/v1/responses/r_1", "", "X-Api-Key", token).want(t, 200, "")
}

// TestTheVendorsAccountIsNotShown keeps back what an answer says about an account that is not the caller's.
func TestTheVendorsAccountIsNotShown(t *testing.T) {
	account := []string{"Openai-Organization", "Openai-Project", "Set-Cookie", "X-Ratelimit-Limit-Requests", "X-Ratelimit-Reset-Tokens",
		"Anthropic-Ratelimit-Input-Tokens-Limit"}
	shown := []string{"Openai-Processing-Ms", "Retry-After", "X-Should-Retry", "X-Request-Id"}
	v := &vendor{before: func(w http.ResponseWriter, r *http.Request) bool {
		for _, name := range append(account, shown...) {
			w.Header().Set(name, "1")
		}
		w.Header().Set("Link", "x")
		w.WriteHeader(http.StatusEarlyHints)
		return false
	}}
	e, _, token := llmEdge(t, v)
	for llm, own := range map[string]bool{"acme": false, "free": true} {
		r := send(t, "POST", e.url+"/llm/"+llm+"/v1/x", `{"model":"gpt-5"}`, "Api-Key", token)
		r.want(t, 200, "")
		for _, name := range account {
			if (r.header.Get(name) != "") != own {
				t.Errorf("%s: %s is %q", llm, name, r.header.Get(name))
			}
		}
		for _, name := range shown {
			if r.header.Get(name) != "1" {
				t.Errorf("%s: %s is %q", llm, name, r.header.Get(name))
			}
		}
	}
}

func TestModelAllowList(t *testing.T) {
	v := &vendor{}
	e, _, token := llmEdge(t, v)
	post := func(path, kind, body string, more ...string) reply {
		return send(t, "POST", e.url+path, body, append([]string{"X-Api-Key", token, "Content-Type", kind}, more...)...)
	}
	for _, c := range []struct {
		path, kind, body string
		status           int
		code             string
	}{
		{"/llm/acme/v1/x", "application/json", `{"model":"other"}`, 404, "model_not_found"},
		{"/llm/acme/v1/x", "text/plain", `{"model":"other"}`, 404, "model_not_found"},
		{"/llm/acme/v1/x", "application/json", `{"model":"gpt-5","model":"other"}`, 400, "model_ambiguous"},
		{"/llm/acme/v1/x", "application/json", `{"model":"gpt-5","MODEL":"other"}`, 400, "model_ambiguous"},
		{"/llm/acme/v1/x", "application/json", `{"model":`, 400, "invalid_body"},
		{"/llm/acme/v1/x", "application/x-www-form-urlencoded", "model=other", 415, "unsupported_media_type"},
		{"/v1/chat/completions", "application/json", `{"messages":[]}`, 400, "model_required"},
		{"/v1/chat/completions", "application/json", `{"model":"acme/gpt-5"}x`, 400, "invalid_body"},
		{"/v1/chat/completions", "application/json", strings.Repeat(" ", 1<<20) + "{}", 413, "request_too_large"},
		{"/v1/audio/speech", "audio/wav", "x", 415, "unsupported_media_type"},
	} {
		post(c.path, c.kind, c.body).want(t, c.status, c.code)
	}
	post("/llm/acme/v1/x", "application/json", "zipped", "Content-Encoding", "gzip").want(t, 415, "unsupported_media_type")
	send(t, "GET", e.url+"/v1/responses/r_1", "", "X-Api-Key", token).want(t, 400, "model_required")
	send(t, "GET", e.url+"/llm/acme/v1/realtime", "", "X-Api-Key", token, "Connection", "Upgrade", "Upgrade", "websocket").want(t, 400, "upgrade_not_supported")
	if v.calls.Load() != 0 {
		t.Errorf("%d refused requests reached the vendor", v.calls.Load())
	}
	post("/llm/acme/v1/x", "application/json", `{"input":1}`).want(t, 200, "")
}

func TestMultipartBodiesAreRouted(t *testing.T) {
	v := &vendor{}
	e, _, token := llmEdge(t, v)
	upload := func(path, model string) (string, reply) {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		part, err := w.CreateFormFile("file", "a.wav")
		if err != nil {
			t.Fatal(err)
		}
		part.Write(bytes.Repeat([]byte("\r\n--\x00"), 50_000))
		w.WriteField("model", model)
		w.Close()
		body := b.String()
		return body, send(t, "POST", e.url+path, body, "X-Api-Key", token, "Content-Type", w.FormDataContentType())
	}
	body, r := upload("/v1/audio/transcriptions", "acme/gpt-5")
	r.want(t, 200, "")
	if v.body != strings.Replace(body, "acme/gpt-5", "gpt-5", 1) {
		t.Error("more than the model was changed")
	}
	body, r = upload("/llm/acme/v1/audio/transcriptions", "gpt-5")
	r.want(t, 200, "")
	if v.body != body {
		t.Error("the body was changed")
	}
	_, r = upload("/llm/acme/v1/audio/transcriptions", "other")
	r.want(t, 404, "model_not_found")
}
