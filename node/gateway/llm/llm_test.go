package llm

import (
	"bytes"
	"encoding/json"
	"errors"
	"mime/multipart"
	"slices"
	"strings"
	"testing"
)

func TestFindModelAndCutPrefix(t *testing.T) {
	for _, c := range []struct {
		body, model, out string
		err              error
	}{
		{`{"model":"v/m","x":1}`, "v/m", `{"model":"m","x":1}`, nil},
		{` {"a":{"model":"no"} , "model" :  "v/m/n" }` + "\n", "v/m/n", ` {"a":{"model":"no"} , "model" :  "m/n" }` + "\n", nil},
		{`{"model":"v\/m\u0041"}`, "v/mA", `{"model":"m\u0041"}`, nil},
		{`{"model":"\u0076/m","b":[1.50]}`, "v/m", `{"model":"m","b":[1.50]}`, nil},
		{`{"mod\u0065l":"v/m"}`, "v/m", `{"mod\u0065l":"m"}`, nil},
		{`{"model":"other"}`, "other", `{"model":"other"}`, nil},
		{`{"model":"v/m","model":"v/n"}`, "", "", ErrManyModels},
		{`{"model":"v/m","Model":"v/n"}`, "", "", ErrManyModels},
		{`{"MODEL":"v/m"}`, "", "", ErrManyModels},
		{`{"model":1}`, "", "", ErrBody},
		{`{"x":1}`, "", "", ErrNoModel},
		{`[{"model":"v/m"}]`, "", "", ErrBody},
		{`{"model":"v/m"`, "", "", ErrBody},
		{"", "", "", ErrBody},
	} {
		body := []byte(c.body)
		m, err := FindModel(body)
		if !errors.Is(err, c.err) || m.Name != c.model {
			t.Errorf("%s: got %q, %v", c.body, m.Name, err)
			continue
		}
		if err == nil {
			if out := m.CutPrefix(body, "v/"); string(out) != c.out {
				t.Errorf("%s: became %s, want %s", c.body, out, c.out)
			}
		}
	}
}

// TestDeepNestingIsNotRead has a body that would overflow the stack of whoever reads it level by level.
func TestDeepNestingIsNotRead(t *testing.T) {
	deep := func(n int) string {
		return `{"x":"\\\"[[\\",` + strings.Repeat(" ", 3) + `"a":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `,"model":"v/m"}`
	}
	for _, body := range []string{strings.Repeat("[", 16<<20), strings.Repeat(`{"a":`, 4<<20), `{"a":` + strings.Repeat("[", 16<<20), deep(maxDepth)} {
		if _, err := FindModel([]byte(body)); !errors.Is(err, ErrBody) {
			t.Errorf("%.20q: got %v", body, err)
		}
	}
	for _, body := range []string{deep(maxDepth - 1), `{"x":"` + strings.Repeat("[", 2*maxDepth) + `","y":[` + strings.Repeat("[],", 2*maxDepth) + `1],"model":"v/m"}`} {
		if m, err := FindModel([]byte(body)); err != nil || m.Name != "v/m" {
			t.Errorf("%.20q: got %q, %v", body, m.Name, err)
		}
	}
	var s Scanner
	s.Write([]byte(`{"usage":{"prompt_tokens":1,"x":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}}`))
	if s.Usage().Reported {
		t.Error("a usage object of 2000 levels was read")
	}
}

func FuzzModel(f *testing.F) {
	f.Add([]byte(strings.Repeat("[", 100_000)))
	f.Add([]byte(`{"a":"\\\"[","b":` + strings.Repeat(`{"a":[`, 2000)))
	for _, s := range []string{`{"model":"v/m"}`, `{"a":"\"model\":","model":"v\/x"}`, ` { "model" : "\u0076/" } `, `{"x":[{"model":"v/"}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		m, err := FindModel(body)
		if !bytes.Equal(before, body) {
			t.Fatal("the body was changed")
		}
		var want map[string]any
		if err != nil {
			return
		}
		if err := json.Unmarshal(body, &want); err != nil {
			return // gjson takes a little more than encoding/json, such as invalid UTF-8
		}
		out := m.CutPrefix(body, "v/")
		rest, cut := strings.CutPrefix(m.Name, "v/")
		if !cut {
			if !bytes.Equal(out, before) {
				t.Fatal("changed without reason")
			}
			return
		}
		if tail := before[m.end:]; !bytes.HasSuffix(out, tail) || !bytes.HasPrefix(out, before[:m.start]) {
			t.Fatalf("%q became %q", before, out)
		}
		again, err := FindModel(out)
		if err != nil || again.Name != rest {
			t.Fatalf("%q became %q with model %q, %v", before, out, again.Name, err)
		}
	})
}

func form(t testing.TB, fields ...string) ([]byte, string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i < len(fields); i += 2 {
		if fields[i] == "file" {
			part, err := w.CreateFormFile("file", "a.wav")
			if err != nil {
				t.Fatal(err)
			}
			part.Write([]byte(fields[i+1]))
			continue
		}
		if err := w.WriteField(fields[i], fields[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	return b.Bytes(), w.FormDataContentType()
}

func TestFormModel(t *testing.T) {
	body, kind := form(t, "file", "\r\n\r\n--x--\x00", "model", "v/whisper", "language", "en")
	m, err := FindFormModel(body, kind)
	if err != nil || m.Name != "v/whisper" {
		t.Fatalf("got %q, %v", m.Name, err)
	}
	want := strings.Replace(string(body), "v/whisper", "whisper", 1)
	if out := m.CutPrefix(body, "v/"); string(out) != want {
		t.Errorf("became %q", out)
	}
	body, kind = form(t, "model", "a", "model", "b")
	if _, err := FindFormModel(body, kind); !errors.Is(err, ErrManyModels) {
		t.Errorf("two models: %v", err)
	}
	body, kind = form(t, "x", "model")
	if _, err := FindFormModel(body, kind); !errors.Is(err, ErrNoModel) {
		t.Errorf("no model: %v", err)
	}
	if _, err := FindFormModel(body[:len(body)-30], kind); !errors.Is(err, ErrBody) {
		t.Errorf("cut off: %v", err)
	}
}

func FuzzFormModel(f *testing.F) {
	body, _ := form(f, "model", "v/m", "file", "data")
	f.Add(body, "multipart/form-data; boundary=x")
	f.Add([]byte("--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nv/m\r\n--x--\r\n"), "multipart/form-data; boundary=x")
	f.Add([]byte("--x\r\nContent-Disposition: form-data; name=model\r\n\r\n\r\n--x--"), "multipart/form-data; boundary=x")
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		m, err := FindFormModel(body, contentType)
		if err != nil {
			return
		}
		if string(body[m.start:m.end]) != m.Name {
			t.Fatalf("%q is not at %d:%d of %q", m.Name, m.start, m.end, body)
		}
		m.CutPrefix(body, "v/")
	})
}

func TestUsage(t *testing.T) {
	chunk := `data: {"choices":[{"delta":{"content":"{\"usage\":{\"prompt_tokens\":99}}"}}],"usage":null}` + "\n\n"
	for name, c := range map[string]struct {
		events bool
		body   string
		want   Usage
	}{
		"chat":          {false, `{"id":"usage","choices":[{"usage":{"prompt_tokens":9}}],"usage":{"prompt_tokens":3,"completion_tokens":4,"details":{"x":[1]}}}`, Usage{3, 4, true}},
		"embeddings":    {false, `{"data":[{"embedding":[0.1,-2e3]}],"usage":{"prompt_tokens":8,"total_tokens":8}}`, Usage{8, 0, true}},
		"responses":     {false, ` { "usage" : { "input_tokens" : 5 , "output_tokens" : 6 } } `, Usage{5, 6, true}},
		"null":          {false, `{"usage":null}`, Usage{}},
		"elsewhere":     {false, `{"a":{"usage":{"prompt_tokens":1}},"b":["usage",{"prompt_tokens":1}]}`, Usage{}},
		"in a string":   {false, `{"a":"\"usage\":{\"prompt_tokens\":1}"}`, Usage{}},
		"cut off":       {false, `{"usage":{"prompt_tokens":3`, Usage{}},
		"too long":      {false, `{"usage":{"x":"` + strings.Repeat("a", maxUsage) + `","prompt_tokens":3}}`, Usage{}},
		"negative":      {false, `{"usage":{"prompt_tokens":-3}}`, Usage{}},
		"stream":        {true, chunk + chunk + `data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}` + "\n\ndata: [DONE]\n\n", Usage{1, 2, true}},
		"last counts":   {true, `data:{"usage":{"prompt_tokens":1,"completion_tokens":1}}` + "\r\n\r\n" + `data:{"usage":{"prompt_tokens":1,"completion_tokens":7}}` + "\r\n\r\n", Usage{1, 7, true}},
		"event stream":  {true, "event: response.completed\n" + `data: {"type":"response.completed","response":{"id":"r","usage":{"input_tokens":2,"output_tokens":3}}}` + "\n\n", Usage{2, 3, true}},
		"no usage":      {true, chunk, Usage{}},
		"not data":      {true, ": " + `{"usage":{"prompt_tokens":1}}` + "\nxdata: " + `{"usage":{"prompt_tokens":1}}` + "\n\n", Usage{}},
		"broken before": {true, "data: {\"a\":[[[\n\n" + `data: {"usage":{"prompt_tokens":4,"completion_tokens":0}}` + "\n\n", Usage{4, 0, true}},
	} {
		for _, size := range []int{1, 2, 7, 1 << 20} {
			s := Scanner{}
			if c.events {
				s = NewEventScanner()
			}
			for rest := c.body; rest != ""; {
				n := min(size, len(rest))
				s.Write([]byte(rest[:n]))
				rest = rest[n:]
			}
			if s.Usage() != c.want {
				t.Errorf("%s in pieces of %d: got %+v, want %+v", name, size, s.Usage(), c.want)
			}
		}
	}
}

func TestBorder(t *testing.T) {
	for body, want := range map[string]bool{
		"": true, "\n": true, "data: x": false, "data: x\n": false, "data: x\n\n": true, "data: x\r\n\r\n": true, "data: x\r\n\r": false,
		"data: x\n\nd": false, ": hi\n\n": true, "\x00": false,
	} {
		for size := 1; size <= max(1, len(body)); size++ {
			var b Border
			for piece := range slices.Chunk([]byte(body), size) {
				b.Write(piece)
			}
			if b.Between() != want {
				t.Errorf("%q in pieces of %d: got %v", body, size, !want)
			}
		}
	}
}

// FuzzUsage compares the scanner with a parser that holds the whole body, and asks it to be the same in pieces.
func FuzzUsage(f *testing.F) {
	f.Add([]byte(`{"usage":{"prompt_tokens":1,"x":`+strings.Repeat("[", 7000)), 100)
	f.Add([]byte(`{"usage":{"prompt_tokens":3,"completion_tokens":4}}`), 3)
	f.Add([]byte(`{"a":"\\","response":{"x":[{}],"usage":{"input_tokens":1}}}`), 1)
	f.Add([]byte("data: {\"usage\":{\"prompt_tokens\":1}}\n\n"), 5)
	f.Fuzz(func(t *testing.T, body []byte, size int) {
		size = max(1, size%64)
		whole, pieces := Scanner{}, Scanner{}
		events := NewEventScanner()
		whole.Write(body)
		events.Write(body)
		for rest := body; len(rest) > 0; {
			n := min(size, len(rest))
			pieces.Write(rest[:n])
			rest = rest[n:]
		}
		if whole.Usage() != pieces.Usage() {
			t.Fatalf("%+v as a whole, %+v in pieces", whole.Usage(), pieces.Usage())
		}
		if len(whole.json.captured) > maxUsage || len(events.json.captured) > maxUsage {
			t.Fatal("keeps more than it may")
		}
		var doc map[string]json.RawMessage
		if json.Unmarshal(body, &doc) != nil || bytes.Contains(body, []byte(`\`)) || doc["response"] != nil ||
			bytes.Count(body, []byte("usage")) != 1 || bytes.Count(body, []byte("_tokens")) != 2 {
			return
		}
		var usage struct {
			Prompt     *uint32 `json:"prompt_tokens"`
			Completion *uint32 `json:"completion_tokens"`
		}
		if json.Unmarshal(doc["usage"], &usage) != nil || usage.Prompt == nil || usage.Completion == nil ||
			!bytes.Contains(doc["usage"], []byte(`"prompt_tokens"`)) || !bytes.Contains(doc["usage"], []byte(`"completion_tokens"`)) {
			return
		}
		if want := (Usage{int64(*usage.Prompt), int64(*usage.Completion), true}); whole.Usage() != want {
			t.Fatalf("%s: got %+v, want %+v", body, whole.Usage(), want)
		}
	})
}

func TestMatchModel(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"gpt-5", "gpt-5", true}, {"gpt-5", "gpt-50", false}, {"gpt-*", "gpt-5", true}, {"gpt-*", "gpt-", true}, {"gpt-*", "xgpt-5", false},
		{"*", "", true}, {"*-mini", "gpt-5-mini", true}, {"*-mini", "gpt-5-mini-x", false}, {"a*b*c", "a1b2c", true}, {"a*b*c", "acb", false},
		{"a*a", "a", false}, {"**", "x", true},
	} {
		if got := MatchModel(c.pattern, c.name); got != c.want {
			t.Errorf("%q, %q: got %v", c.pattern, c.name, got)
		}
	}
}

func TestErrorsAreJSON(t *testing.T) {
	for _, e := range []Error{{Message: "a \"b\"\n", Type: "t", Code: "c"}, {Message: "\xff", Param: "model"}} {
		var got struct {
			Error struct {
				Message, Type, Code string
				Param               *string
			}
		}
		if err := json.Unmarshal(e.AppendBody(nil), &got); err != nil {
			t.Fatal(err)
		}
		if (got.Error.Param == nil) != (e.Param == "") || got.Error.Type != e.Type || got.Error.Code != e.Code {
			t.Errorf("got %+v", got)
		}
		if s := string(e.AppendEvent(nil)); !strings.HasPrefix(s, `data: {"error":`) || !strings.HasSuffix(s, "}\n\n") {
			t.Errorf("event %q", s)
		}
	}
}
