package sample

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

func TestOfficialSDKTalksToIt(t *testing.T) {
	server := httptest.NewServer(Handler("vendor-key"))
	defer server.Close()
	client := openai.NewClient(option.WithBaseURL(server.URL+"/v1"), option.WithAPIKey("vendor-key"), option.WithMaxRetries(0))
	params := openai.ChatCompletionNewParams{
		Model:    ChatModel,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hello there")},
	}
	answer, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := answer.Choices[0].Message.Content, "You said: hello there"; got != want || answer.Usage.CompletionTokens != 4 {
		t.Errorf("answer %q with %d tokens, want %q with 4", got, answer.Usage.CompletionTokens, want)
	}
	params.StreamOptions.IncludeUsage = openai.Bool(true)
	stream := client.Chat.Completions.NewStreaming(t.Context(), params)
	acc := openai.ChatCompletionAccumulator{}
	for stream.Next() {
		acc.AddChunk(stream.Current())
	}
	if err := stream.Err(); err != nil || acc.Choices[0].Message.Content != "You said: hello there" || acc.Usage.CompletionTokens != 4 {
		t.Errorf("streamed %+v, %v", acc.ChatCompletion, err)
	}
	embedding, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{
		Model: EmbeddingModel, Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a", "b"}},
	})
	if err != nil || len(embedding.Data) != 2 || len(embedding.Data[0].Embedding) != 8 {
		t.Errorf("embeddings %+v, %v", embedding, err)
	}
	models, err := client.Models.List(t.Context())
	if err != nil || len(models.Data) != 2 {
		t.Errorf("models %+v, %v", models, err)
	}
}

func TestRefusals(t *testing.T) {
	h := Handler("vendor-key")
	for _, c := range []struct {
		method, path, key, body string
		want                    int
	}{
		{"POST", "/v1/chat/completions", "other", `{}`, 401},
		{"POST", "/v1/chat/completions", "vendor-key", `{`, 400},
		{"POST", "/v1/chat/completions", "vendor-key", `{"model":"x"}`, 404},
		{"POST", "/v1/chat/completions", "vendor-key", `{"model":"parrot-1"}`, 400},
		{"POST", "/v1/embeddings", "vendor-key", `{"model":"parrot-embed-1","input":3}`, 400},
		{"GET", "/v1/files", "vendor-key", ``, 404},
		{"GET", "/orders", "", ``, 200},
		{"GET", "/orders/2", "", ``, 200},
		{"GET", "/orders/9", "", ``, 404},
		{"POST", "/orders", "", `{"item":"tea"}`, 201},
	} {
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		r.Header.Set("Authorization", "Bearer "+c.key)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s %s %s: %d %s, want %d", c.method, c.path, c.body, w.Code, w.Body, c.want)
		}
	}
}
