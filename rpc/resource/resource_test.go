package resource

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

const orders = `apiVersion: gw/v1
kind: API
metadata:
  name: orders
  labels: {team: shop}
spec:
  hosts: [orders.example.com]
  paths: [/orders]
  strip_prefix: true
  upstreams:
    - url: http://127.0.0.1:9999
  timeouts: {response_header: 250ms}
  request_headers:
    set: {X-Team: shop}
`

func parseOne(t *testing.T, text string) *Document {
	t.Helper()
	docs, err := Parse("orders.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) != 1 {
		t.Fatalf("got %d documents, want 1", len(docs))
	}
	return docs[0]
}

func TestDefaultsAreMadeExplicit(t *testing.T) {
	d := parseOne(t, orders)
	s := d.Spec.(*gwv1.APISpec)
	if d.Namespace != Default || s.Auth != gwv1.Auth_AUTH_TOKEN || s.Upstreams[0].GetWeight() != 1 {
		t.Errorf("namespace %q, auth %v, weight %d: want default, token, 1", d.Namespace, s.Auth, s.Upstreams[0].GetWeight())
	}
	if got := s.Timeouts.ResponseHeader.AsDuration().String(); got != "250ms" {
		t.Errorf("response_header = %s, want 250ms as given", got)
	}
	if got := s.Timeouts.Connect.AsDuration().String(); got != "5s" {
		t.Errorf("connect = %s, want the default 5s", got)
	}
}

func TestWhatIsPrintedCanBeReadAgain(t *testing.T) {
	d := parseOne(t, orders)
	again, err := FromProto(d.Proto())
	if err != nil {
		t.Fatal(err)
	}
	_, want := d.Canonical()
	if _, got := again.Canonical(); got != want {
		t.Errorf("digest %v after a round trip, want %v", got, want)
	}
}

func TestJSONIsReadToo(t *testing.T) {
	d := parseOne(t, `{"kind":"LLM","metadata":{"name":"openai","namespace":"team-a"},"spec":{"base_url":"https://api.openai.com","credential":{"secret":"openai-key"}}}`)
	if got := Secrets(d.Spec); !slices.Equal(got, []string{"openai-key"}) {
		t.Errorf("Secrets = %v, want [openai-key]", got)
	}
	if c := d.Spec.(*gwv1.LLMSpec).Credential; c.Header != "Authorization" || c.GetPrefix() != "Bearer " {
		t.Errorf("credential goes into %q as %q, want Authorization and \"Bearer \"", c.Header, c.GetPrefix())
	}
}

func TestAllOfJSONIsRead(t *testing.T) {
	docs, err := Parse("f.json", []byte(`{"kind":"LLM","metadata":{"name":"a","labels":{"mood":"\ud83d\ude00"}},"spec":{"base_url":"https:\/\/a"}}
{"kind":"LLM","metadata":{"name":"b"},"spec":{"base_url":"https://b"}}`))
	if err != nil || len(docs) != 2 {
		t.Fatalf("%d documents, %v", len(docs), err)
	}
	if got := docs[0].Spec.(*gwv1.LLMSpec).BaseUrl; got != "https://a" || docs[0].Labels["mood"] != "😀" {
		t.Errorf("base_url %q, label %q", got, docs[0].Labels["mood"])
	}
	_, err = Parse("f.json", []byte("{\"kind\": \"LLM\",\n \"metadata\": {\"name\": \"a\"},\n \"spec\": {\"base_url\": 3}}"))
	if want := `f.json:3:23 LLM/a spec.base_url: is 3, expected a string`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestWrongFilesSayWhere(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"unknown field", strings.Replace(orders, "strip_prefix", "stripPrefix", 1), `f.yaml:9:3 API/orders spec.stripPrefix: is not a field, expected one of hosts, paths`},
		{"wrong type", strings.Replace(orders, "strip_prefix: true", "strip_prefix: 3", 1), `f.yaml:9:17 API/orders spec.strip_prefix: is 3, expected true or false`},
		{"number for string", strings.Replace(orders, "X-Team: shop", "X-Team: 12", 1), `f.yaml:14:19 API/orders spec.request_headers.set["X-Team"]: is 12, expected a string (put it in quotes)`},
		{"bad duration", strings.Replace(orders, "250ms", "fast", 1), `f.yaml:12:31 API/orders spec.timeouts.response_header: is "fast", expected a duration such as`},
		{"repeated field", orders + "  strip_prefix: false\n", `f.yaml:15:3 API/orders spec.strip_prefix: is given twice`},
		{"rule", strings.Replace(orders, "[/orders]", "[orders]", 1), `f.yaml:8:11 API/orders spec.paths[0]: is not valid`},
		{"missing", strings.Replace(orders, "  paths: [/orders]\n", "", 1), `f.yaml:7:3 API/orders spec.paths: is not valid`},
		{"bad URL", strings.Replace(orders, "http://127.0.0.1:9999", "127.0.0.1:9999", 1), `f.yaml:11:12 API/orders spec.upstreams[0].url: is not valid, expected an http:// or https:// URL`},
		{"bad enum", orders + "  auth: open\n", `f.yaml:15:9 API/orders spec.auth: is "open", expected one of token, keyless`},
		{"bad name", strings.Replace(orders, "name: orders", "name: Orders", 1), `f.yaml:4:9 API/Orders metadata.name: "Orders" is not a name`},
		{"unknown kind", strings.Replace(orders, "kind: API", "kind: Route", 1), `f.yaml:2:7 Route/orders kind: "Route" is not known, expected one of API, LLM`},
		{"twice", orders + "---\n" + orders, `metadata.name: is in namespace default twice, first on line 1`},
		{"syntax", "kind: [", `f.yaml:`},
		{"not a mapping", "- a\n", `f.yaml:1:1: is a list, expected a mapping`},
	} {
		t.Run(c.name, func(t *testing.T) {
			docs, err := Parse("f.yaml", []byte(c.text))
			if err == nil {
				t.Fatalf("read %v, want an error", docs)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestAllErrorsAreReported(t *testing.T) {
	text := strings.NewReplacer("[/orders]", "[orders]", "http://127.0.0.1:9999", `""`).Replace(orders)
	_, err := Parse("f.yaml", []byte(text))
	var errs Errors
	if !errors.As(err, &errs) || len(errs) != 2 {
		t.Fatalf("got %v, want two errors", err)
	}
}

func TestAliasBombEnds(t *testing.T) {
	var b strings.Builder
	b.WriteString("kind: API\nmetadata: {name: a}\nspec:\n  a0: &a0 {x: [1]}\n")
	for i := 1; i < 40; i++ {
		fmt.Fprintf(&b, "  a%d: &a%d [*a%d, *a%d, *a%d, *a%d]\n", i, i, i-1, i-1, i-1, i-1)
	}
	b.WriteString("  upstreams: *a39\n")
	if _, err := Parse("bomb.yaml", []byte(b.String())); err == nil {
		t.Error("an alias bomb was read")
	}
}

func TestDecodeRefusesWhatItDoesNotKnow(t *testing.T) {
	spec, _ := parseOne(t, orders).Canonical()
	if _, err := Decode("API", "orders", spec); err != nil {
		t.Fatal(err)
	}
	withField := protowire.AppendTag(slices.Clone(spec), 900, protowire.VarintType)
	withField = protowire.AppendVarint(withField, 1)
	inner := protowire.AppendTag(nil, 901, protowire.VarintType)
	inner = protowire.AppendVarint(inner, 1)
	nested := protowire.AppendTag(slices.Clone(spec), 7, protowire.BytesType)
	nested = protowire.AppendBytes(nested, inner)
	enum, err := proto.Marshal(&gwv1.APISpec{Auth: 77})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, kind, field, code string
		spec                    []byte
	}{
		{"field", "API", "spec", CodeTooOld, withField},
		{"nested field", "API", "spec.upstreams[1]", CodeTooOld, nested},
		{"enum value", "API", "spec.auth", CodeTooOld, enum},
		{"kind", "Router", "kind", CodeTooOld, spec},
		{"garbage", "API", "spec", CodeInvalid, []byte{0xff, 0xff}},
	} {
		_, err := Decode(c.kind, "orders", c.spec)
		var e *Error
		if !errors.As(err, &e) || e.Code != c.code || e.Field != c.field {
			t.Errorf("%s: got %v, want %s at %s", c.name, err, c.code, c.field)
		}
	}
}

// Golden values: another binary, and any later version, must compute the same.
func TestDigestsAreFixed(t *testing.T) {
	d := DigestOf("API", "orders", []byte("spec"))
	if got, want := d.String(), "219835da400a44ed80100f9482971105b4a5d6c253f4025d0297ea3c4b017c4c"; got != want {
		t.Errorf("DigestOf = %s, want %s", got, want)
	}
	sum := Checksum(slices.Values([]Entry{{"API", "orders", d}, {"LLM", "openai", d}}))
	if got, want := sum.String(), "9e7ab1a8e9a83960e111cc7c3daca7a2a39a40dae312fbf306bc4acfab4266cd"; got != want {
		t.Errorf("Checksum = %s, want %s", got, want)
	}
	if got, want := EmptyChecksum.String(), "b90ed8898affce47ed00e9836c8769697f600618f8b06b873ae68d5f8726bac7"; got != want {
		t.Errorf("EmptyChecksum = %s, want %s", got, want)
	}
}

func TestDigestsTellBordersApart(t *testing.T) {
	if DigestOf("API", "ab", []byte("c")) == DigestOf("API", "a", []byte("bc")) || DigestOf("A", "PIx", nil) == DigestOf("API", "x", nil) {
		t.Error("moving bytes between kind, name and spec keeps the digest")
	}
}

func TestChecksumOfManyEqualsFewerBuffers(t *testing.T) {
	entries := make([]Entry, 5000)
	for i := range entries {
		entries[i] = Entry{Kind: "API", Name: fmt.Sprintf("api-%05d", i), Digest: Digest{byte(i), byte(i >> 8)}}
	}
	a := Checksum(slices.Values(entries))
	entries[4999].Digest[0]++
	if b := Checksum(slices.Values(entries)); a == b {
		t.Error("the last entry does not count")
	}
}

func BenchmarkChecksum10000(b *testing.B) {
	entries := make([]Entry, 10_000)
	for i := range entries {
		entries[i] = Entry{Kind: "API", Name: fmt.Sprintf("api-%05d", i), Digest: Digest{byte(i), byte(i >> 8)}}
	}
	for b.Loop() {
		Checksum(slices.Values(entries))
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(orders))
	f.Add([]byte(`{"kind":"LLM","metadata":{"name":"x"},"spec":{"base_url":"http://h"}}`))
	f.Add([]byte(`{"kind":"API","metadata":{"name":"x"},"spec":{"paths":["\/a"]}} {`))
	f.Add([]byte("a: &a [*a]\n---\n? [x]\n: y\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := Parse("f", data)
		if err != nil {
			return
		}
		for _, d := range docs {
			again, err := FromProto(d.Proto())
			if err != nil {
				t.Fatalf("what was read can't be read again: %v", err)
			}
			spec, want := d.Canonical()
			if _, got := again.Canonical(); got != want {
				t.Fatal("a round trip changed the digest")
			}
			if _, err := Decode(d.Kind, d.Name, spec); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add("API", []byte{})
	f.Add("LLM", []byte("\x12\x08https://"))
	f.Fuzz(func(t *testing.T, kind string, spec []byte) {
		if m, err := Decode(kind, "x", spec); err == nil {
			Render(m)
			Secrets(m)
		}
	})
}
