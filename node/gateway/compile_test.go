package gateway

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// res makes a resource of a spec as it is, without the checks of files.
func res(kind, name string, spec proto.Message) Resource {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(spec)
	if err != nil {
		panic(err)
	}
	return Resource{Kind: kind, Name: name, Spec: b, Digest: resource.DigestOf(kind, name, b)}
}

func apiSpec(change func(*gwv1.APISpec)) *gwv1.APISpec {
	s := &gwv1.APISpec{Paths: []string{"/a"}, Upstreams: []*gwv1.Upstream{{Url: "http://127.0.0.1:1"}}}
	change(s)
	return s
}

func TestCompileRefuses(t *testing.T) {
	url := func(u string) Resource {
		return res("API", "x", apiSpec(func(s *gwv1.APISpec) { s.Upstreams[0].Url = u }))
	}
	hosts := func(h ...string) Resource {
		return res("API", "x", apiSpec(func(s *gwv1.APISpec) { s.Hosts = h }))
	}
	paths := func(p ...string) Resource {
		return res("API", "x", apiSpec(func(s *gwv1.APISpec) { s.Paths = p }))
	}
	headers := func(e *gwv1.HeaderEdits) Resource {
		return res("API", "x", apiSpec(func(s *gwv1.APISpec) { s.RequestHeaders = e }))
	}
	llm := func(base string) Resource { return res("LLM", "x", &gwv1.LLMSpec{BaseUrl: base}) }
	other := func(change func(*gwv1.APISpec)) Resource { return res("API", "a", apiSpec(change)) }
	corrupt := url("http://h")
	corrupt.Spec = append(corrupt.Spec, 0x20, 1)
	newer := url("http://h")
	newer.Spec = protowire.AppendVarint(protowire.AppendTag(newer.Spec, 999, protowire.VarintType), 1)
	newer.Digest = resource.DigestOf("API", "x", newer.Spec)

	for name, c := range map[string]struct {
		resources []Resource
		field     string
		code      string
		message   string
	}{
		"no scheme":        {[]Resource{url("example.com")}, "spec.upstreams[0].url", "invalid", "http://"},
		"other scheme":     {[]Resource{url("ftp://h")}, "spec.upstreams[0].url", "invalid", "http://"},
		"no host":          {[]Resource{url("http:///p")}, "spec.upstreams[0].url", "invalid", "host"},
		"bad port":         {[]Resource{url("http://h:99999")}, "spec.upstreams[0].url", "invalid", "port"},
		"password":         {[]Resource{url("http://u:p@h")}, "spec.upstreams[0].url", "invalid", "secret"},
		"query":            {[]Resource{url("http://h/?a=b")}, "spec.upstreams[0].url", "invalid", "query"},
		"fragment":         {[]Resource{url("http://h/#f")}, "spec.upstreams[0].url", "invalid", "fragment"},
		"dots in upstream": {[]Resource{url("http://h/a/../b")}, "spec.upstreams[0].url", "invalid", "dot segments"},
		"unparsable":       {[]Resource{url("http://[::1")}, "spec.upstreams[0].url", "invalid", "no URL"},
		"no upstreams":     {[]Resource{other(func(s *gwv1.APISpec) { s.Upstreams = nil })}, "spec.upstreams", "invalid", "empty"},
		"weight":           {[]Resource{other(func(s *gwv1.APISpec) { s.Upstreams[0].Weight = proto.Uint32(0) })}, "spec.upstreams[0].weight", "invalid", "range"},
		"no paths":         {[]Resource{paths()}, "spec.paths", "invalid", "empty"},
		"dots in path":     {[]Resource{paths("/a", "/a/%2e%2e/b")}, "spec.paths[1]", "invalid", "path prefix"},
		"encoded slash":    {[]Resource{paths("/a%2Fb")}, "spec.paths[0]", "invalid", "path prefix"},
		"relative path":    {[]Resource{paths("a")}, "spec.paths[0]", "invalid", "path prefix"},
		"path twice":       {[]Resource{paths("/a", "/a/")}, "spec.paths[1]", "conflict", "twice"},
		"host with port":   {[]Resource{hosts("ok.example", "h:80")}, "spec.hosts[1]", "invalid", "host name"},
		"bare wildcard":    {[]Resource{hosts("*")}, "spec.hosts[0]", "invalid", "host name"},
		"upper case host":  {[]Resource{hosts("A.example")}, "spec.hosts[0]", "invalid", "host name"},
		"gateway's path":   {[]Resource{paths("/x", "/v1/orders")}, "spec.paths[1]", "conflict", "/v1"},
		"gateway's path 2": {[]Resource{paths("/llm")}, "spec.paths[0]", "conflict", "/llm"},
		"same path":        {[]Resource{other(func(*gwv1.APISpec) {}), paths("/b", "/a")}, "spec.paths[1]", "conflict", "API/a"},
		"same method": {[]Resource{other(func(s *gwv1.APISpec) { s.Methods = []string{"GET", "PUT"} }),
			res("API", "x", apiSpec(func(s *gwv1.APISpec) { s.Methods = []string{"PUT"} }))}, "spec.paths[0]", "conflict", "API/a"},
		"every method over one": {[]Resource{other(func(s *gwv1.APISpec) { s.Methods = []string{"GET"} }), paths("/a/")}, "spec.paths[0]", "conflict", "API/a"},
		"hop-by-hop edit":       {[]Resource{headers(&gwv1.HeaderEdits{Remove: []string{"te"}})}, "spec.request_headers.remove[0]", "invalid", "gateway's"},
		"host edit":             {[]Resource{headers(&gwv1.HeaderEdits{Set: map[string]string{"host": "h"}})}, `spec.request_headers.set["host"]`, "invalid", "gateway's"},
		"header twice":          {[]Resource{headers(&gwv1.HeaderEdits{Set: map[string]string{"x-a": "1", "X-A": "2"}})}, `spec.request_headers.set["x-a"]`, "invalid", "same header"},
		"header value":          {[]Resource{headers(&gwv1.HeaderEdits{Add: map[string]string{"X-A": "1\n2"}})}, `spec.request_headers.add["X-A"]`, "invalid", "value"},
		"base url with v1":      {[]Resource{llm("https://api.openai.com/v1/")}, "spec.base_url", "invalid", "/v1"},
		"no base url":           {[]Resource{llm("")}, "spec.base_url", "invalid", "http://"},
		"resource twice":        {[]Resource{url("http://h"), url("http://i")}, "", "conflict", "twice"},
		"unknown kind":          {[]Resource{res("Filter", "x", &gwv1.APISpec{})}, "kind", "too_old", "not known"},
		"changed bytes":         {[]Resource{corrupt}, "", "invalid", "changed"},
		"newer field":           {[]Resource{newer}, "spec", "too_old", "not known"},
		"secret without name":   {[]Resource{other(func(s *gwv1.APISpec) { s.Credential = &gwv1.Credential{} })}, "spec.credential.secret", "invalid", "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			table, err := Compile(Snapshot{Namespace: "ns", Resources: c.resources})
			var errs resource.Errors
			if !errors.As(err, &errs) || len(errs) != 1 || table != nil {
				t.Fatalf("got %v, %v; want one error", table, err)
			}
			e := errs[0]
			if e.Field != c.field || e.Code != c.code || !strings.Contains(e.Message, c.message) || e.Namespace != "ns" || e.Name == "" || e.Kind == "" {
				t.Errorf("got %+v, want field %q, code %q, message with %q", e, c.field, c.code, c.message)
			}
			if strings.Contains(err.Error(), ":p@") {
				t.Errorf("the password is in %q", err)
			}
		})
	}
}

func TestCompileReportsEverythingAtOnce(t *testing.T) {
	_, err := Compile(Snapshot{Resources: []Resource{
		res("API", "b", apiSpec(func(s *gwv1.APISpec) { s.Upstreams[0].Url = "x"; s.Paths = []string{"nope"} })),
		res("API", "a", apiSpec(func(s *gwv1.APISpec) { s.Hosts = []string{"*"} })),
		res("LLM", "c", &gwv1.LLMSpec{BaseUrl: "http://h/v1"}),
	}})
	var errs resource.Errors
	if !errors.As(err, &errs) || len(errs) != 4 {
		t.Errorf("got %v, want 4 errors", err)
	}
}

func TestChecksumIsOfTheEntries(t *testing.T) {
	s := Snapshot{Namespace: "n", Epoch: 2, Number: 7, Resources: []Resource{
		res("LLM", "m", &gwv1.LLMSpec{BaseUrl: "http://h", Credential: &gwv1.Credential{Secret: "two"}}),
		res("API", "b", apiSpec(func(s *gwv1.APISpec) { s.Paths = []string{"/b"}; s.Credential = &gwv1.Credential{Secret: "one"} })),
		res("API", "a", apiSpec(func(s *gwv1.APISpec) { s.Credential = &gwv1.Credential{Secret: "two"} })),
	}}
	table, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	want := resource.Checksum(func(yield func(resource.Entry) bool) {
		for _, i := range []int{2, 1, 0} {
			if !yield(s.Resources[i].entry()) {
				return
			}
		}
	})
	if table.Checksum() != want || table.Len() != 3 || table.Epoch() != 2 || table.Number() != 7 || table.Namespace() != "n" {
		t.Errorf("checksum %v, want %v", table.Checksum(), want)
	}
	if got := fmt.Sprint(table.Secrets()); got != "[one two]" {
		t.Errorf("secrets %s", got)
	}
	empty, err := Compile(Snapshot{})
	if err != nil || empty.Checksum() != resource.EmptyChecksum {
		t.Errorf("empty: %v %v", empty, err)
	}
}

func TestProbeFindsWhatIsNotReached(t *testing.T) {
	table := compile(t, api("a", "paths: [/a, '/']\nhosts: [x.example, '*.example', '*.probe.example']\nupstreams: [{url: http://h}]")+
		api("b", "paths: [/a%20b, /v1x]\nmethods: [PUT]\nupstreams: [{url: http://h}]")+llmOf("m", "base_url: http://h"))
	g := New(Config{})
	defer g.Close()
	if err := g.Probe(table); err != nil {
		t.Fatal(err)
	}
	delete(table.llms, "m")
	if err := g.Probe(table); err == nil || !strings.Contains(err.Error(), "LLM/m") {
		t.Errorf("got %v for a table that lost an LLM", err)
	}
}

func FuzzCompile(f *testing.F) {
	for _, r := range []Resource{res("API", "a", apiSpec(func(*gwv1.APISpec) {})), res("LLM", "m", &gwv1.LLMSpec{BaseUrl: "http://h/x"})} {
		f.Add(r.Kind, r.Name, r.Spec)
	}
	g := New(Config{})
	f.Fuzz(func(t *testing.T, kind, name string, spec []byte) {
		table, err := Compile(Snapshot{Resources: []Resource{{Kind: kind, Name: name, Spec: spec, Digest: resource.DigestOf(kind, name, spec)}}})
		if (table == nil) == (err == nil) {
			t.Fatalf("got %v, %v", table, err)
		}
		if err == nil {
			if err := g.Probe(table); err != nil {
				t.Error(err)
			}
		}
	})
}
