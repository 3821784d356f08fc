package gateway

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// Compile builds a table, whole or not at all. The error is resource.Errors and holds everything that is wrong, with
// codes resource.CodeInvalid, resource.CodeConflict and resource.CodeTooOld.
//
// Two APIs may not claim the same host, path and method. Paths under /llm and /v1 belong to the gateway except on hosts
// that an API names; so an API of every host can't claim one.
func Compile(s Snapshot) (*Table, error) {
	c := compiler{
		table: &Table{
			namespace: s.Namespace, epoch: s.Epoch, number: s.Number,
			targets: make([]*target, 0, len(s.Resources)),
			exact:   map[string]*prefixes{}, suffixes: map[string]*prefixes{}, llms: map[string]*target{},
		},
		secrets: map[string]struct{}{},
	}
	sorted := slices.Clone(s.Resources)
	slices.SortStableFunc(sorted, func(a, b Resource) int { return resource.CompareEntries(a.entry(), b.entry()) })
	for i, r := range sorted {
		if i > 0 && sorted[i-1].Kind == r.Kind && sorted[i-1].Name == r.Name {
			c.at(r).fail("", resource.CodeConflict, "is there twice", "one resource of each kind and name")
			continue
		}
		c.resource(r)
	}
	c.plugins()
	if len(c.errs) > 0 {
		return nil, c.errs
	}
	c.table.secrets = slices.Sorted(maps.Keys(c.secrets))
	return c.table, nil
}

func (r Resource) entry() resource.Entry {
	return resource.Entry{Kind: r.Kind, Name: r.Name, Digest: r.Digest}
}

// compiler collects a table and all that is wrong with it.
type compiler struct {
	table   *Table
	errs    resource.Errors
	secrets map[string]struct{}
}

// site is the resource that is being compiled.
type site struct {
	c          *compiler
	kind, name string
}

func (c *compiler) at(r Resource) site { return site{c, r.Kind, r.Name} }

func (s site) fail(field, code, message, expected string) {
	s.c.errs = append(s.c.errs, &resource.Error{
		Kind: s.kind, Namespace: s.c.table.namespace, Name: s.name,
		Field: field, Code: code, Message: message, Expected: expected,
	})
}

func (s site) invalid(field, message, expected string) {
	s.fail(field, resource.CodeInvalid, message, expected)
}

func (c *compiler) resource(r Resource) {
	s := c.at(r)
	if resource.DigestOf(r.Kind, r.Name, r.Spec) != r.Digest {
		s.invalid("", "was changed on its way", "bytes with the digest "+r.Digest.Short())
		return
	}
	if !resource.ValidName(r.Name) {
		s.invalid("metadata.name", fmt.Sprintf("%q is no name", r.Name), resource.NameRule)
		return
	}
	spec, err := resource.Decode(r.Kind, r.Name, r.Spec)
	if err != nil {
		c.decodeError(s, err)
		return
	}
	c.table.entries = append(c.table.entries, r.entry())
	if p, ok := spec.(*gwv1.PluginSpec); ok {
		s.plugin(r, p)
		return
	}
	t := &target{index: len(c.table.targets), name: r.Name, ref: r.Kind + "/" + r.Name}
	before := len(c.errs)
	switch spec := spec.(type) {
	case *gwv1.APISpec:
		s.api(t, spec)
	case *gwv1.LLMSpec:
		s.llm(t, spec)
	default:
		s.fail("kind", resource.CodeTooOld, "can't be served by this version", "a newer gw")
	}
	c.keep(t, spec, len(c.errs) > before)
}

// keep takes a target into the table. One with errors takes its place too: it may conflict with others, and no table
// comes of it anyway.
func (c *compiler) keep(t *target, spec proto.Message, faulty bool) {
	if !faulty {
		for _, name := range resource.Secrets(spec) {
			c.secrets[name] = struct{}{}
		}
	}
	c.table.targets = append(c.table.targets, t)
}

// decodeError takes over what Decode says, which knows kind and name.
func (c *compiler) decodeError(s site, err error) {
	switch err := err.(type) {
	case *resource.Error:
		err.Namespace = c.table.namespace
		c.errs = append(c.errs, err)
	case resource.Errors:
		c.errs = append(c.errs, err...)
	default:
		s.invalid("spec", err.Error(), "")
	}
}

func (s site) api(t *target, spec *gwv1.APISpec) {
	t.kind = kindAPI
	t.stripPrefix = spec.StripPrefix
	switch spec.Auth {
	case gwv1.Auth_AUTH_KEYLESS:
		t.keyless = true
	case gwv1.Auth_AUTH_TOKEN, gwv1.Auth_AUTH_UNSPECIFIED:
	default:
		s.fail("spec.auth", resource.CodeTooOld, "is not known to this version", "token or keyless")
	}
	t.request = s.edits("spec.request_headers", spec.RequestHeaders)
	t.response = s.edits("spec.response_headers", spec.ResponseHeaders)
	t.credential = s.credential("spec.credential", spec.Credential)
	t.timeouts = s.timeouts(spec.Timeouts, apiTimeouts)
	s.upstreams(t, spec.Upstreams)
	s.claims(t, spec)
}

func (s site) llm(t *target, spec *gwv1.LLMSpec) {
	t.kind = kindLLM
	if spec.Dialect != gwv1.Dialect_DIALECT_OPENAI && spec.Dialect != gwv1.Dialect_DIALECT_UNSPECIFIED {
		s.fail("spec.dialect", resource.CodeTooOld, "is not known to this version", "openai")
	}
	t.request = s.edits("spec.request_headers", spec.RequestHeaders)
	t.credential = s.credential("spec.credential", spec.Credential)
	t.timeouts = s.timeouts(spec.Timeouts, llmTimeouts)
	u, ok := s.upstream("spec.base_url", spec.BaseUrl)
	if ok && strings.HasSuffix(u.path, openAIPrefix) {
		s.invalid("spec.base_url", fmt.Sprintf("%q ends in /v1, which the path of every request brings along", spec.BaseUrl),
			"everything before /v1, such as "+fmt.Sprintf("%q", strings.TrimSuffix(strings.TrimSuffix(spec.BaseUrl, "/"), "/v1")))
	}
	u.upTo = 1
	t.upstreams, t.weights = []upstream{u}, 1
	s.models(t, spec.Models)
	s.c.table.llms[t.name] = t
}

func (s site) models(t *target, models []*gwv1.Model) {
	for i, m := range models {
		name := m.GetName()
		if name == "" {
			s.invalid(fmt.Sprintf("spec.models[%d].name", i), "is missing", "the vendor's name of a model")
			continue
		}
		if slices.Contains(t.models, name) {
			continue
		}
		t.models = append(t.models, name)
		if !strings.Contains(name, "*") {
			t.listed = append(t.listed, newListedModel(t.name, name))
		}
	}
}
