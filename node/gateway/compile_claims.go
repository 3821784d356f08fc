package gateway

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// claims enters an API under every host, path and method it names.
func (s site) claims(t *target, spec *gwv1.APISpec) {
	for i, m := range spec.Methods {
		if !httpguts.ValidHeaderFieldName(m) || m == "CONNECT" {
			s.invalid(fmt.Sprintf("spec.methods[%d]", i), fmt.Sprintf("%q can't be served", m), "a method such as GET; none for every method")
		}
	}
	if len(spec.Paths) == 0 {
		s.invalid("spec.paths", "is empty", `at least one path prefix, such as "/"`)
	}
	hosts := s.hosts(spec.Hosts)
	for i, p := range spec.Paths {
		field := fmt.Sprintf("spec.paths[%d]", i)
		prefix, ok := s.prefix(field, p)
		if !ok {
			continue
		}
		if own := reserved(prefix); own != "" && len(spec.Hosts) == 0 {
			s.fail(field, resource.CodeConflict,
				fmt.Sprintf("%s on every host is where the gateway itself serves language models", own), "another path, or spec.hosts")
			continue
		}
		for _, h := range hosts {
			s.claim(t, field, h, prefix, spec.Methods)
		}
	}
}

// reserved returns the gateway's own surface that a prefix lies under, or "".
func reserved(prefix string) string {
	for _, own := range []string{openAIPrefix, llmPrefix} {
		if under(prefix, own) {
			return own
		}
	}
	return ""
}

// hosts returns the places of the table's index that an API claims paths in.
func (s site) hosts(names []string) []**prefixes {
	t := s.c.table
	if len(names) == 0 {
		return []**prefixes{&t.everyHost}
	}
	var places []**prefixes
	for i, name := range names {
		index, key := t.exact, name
		if suffix, wild := strings.CutPrefix(name, "*"); wild {
			index, key = t.suffixes, suffix
		}
		bare := strings.TrimPrefix(key, ".")
		if bare == "" || strings.HasPrefix(bare, ".") || strings.ContainsAny(bare, "*:/ ") || strings.Contains(bare, "..") ||
			hostName(key) != key || (key != name && key[0] != '.') || (key == name && key[0] == '.') {
			s.invalid(fmt.Sprintf("spec.hosts[%d]", i), fmt.Sprintf("%q is no host name", name),
				`a name such as "api.example.com", or "*." and a suffix, in lower case and without a port`)
			continue
		}
		if index[key] == nil {
			index[key] = &prefixes{}
		}
		p := index[key]
		places = append(places, &p)
	}
	return places
}

// prefix checks a path prefix and returns it in the form requests are matched in: decoded, without a final slash.
func (s site) prefix(field, p string) (string, bool) {
	clean, ok := cleanPath(p)
	if !ok || clean.escaped != p || clean.decoded != clean.literal {
		s.invalid(field, fmt.Sprintf("%q is no path prefix", p),
			`"/" and segments, without dot segments, repeated slashes, encoded slashes and a query`)
		return "", false
	}
	return strings.TrimSuffix(clean.decoded, "/"), true
}

// claim enters one host and path for an API's methods.
func (s site) claim(t *target, field string, host **prefixes, prefix string, methods []string) {
	if *host == nil {
		*host = &prefixes{}
	}
	h := *host
	if h.claims == nil {
		h.claims = map[string]*claim{}
	}
	c := h.claims[prefix]
	if c == nil {
		c = &claim{}
		h.claims[prefix] = c
		h.longest = max(h.longest, len(prefix))
	}
	if other := c.clash(methods); other != nil {
		if other == t {
			s.fail(field, resource.CodeConflict, "is claimed twice by this API", "each path once; a final slash makes no other path")
			return
		}
		s.fail(field, resource.CodeConflict, fmt.Sprintf("%s is already served by %s for the same host and method", prefixText(prefix), other.ref),
			"a host, path or method that no other API serves")
		return
	}
	if len(methods) == 0 {
		c.every = t
		return
	}
	if c.methods == nil {
		c.methods = map[string]*target{}
	}
	names := strings.FieldsFunc(c.allow, func(r rune) bool { return r == ',' || r == ' ' })
	for _, m := range methods {
		c.methods[m] = t
		names = append(names, m)
	}
	slices.Sort(names)
	c.allow = strings.Join(slices.Compact(names), ", ")
}

func prefixText(prefix string) string {
	if prefix == "" {
		return "/"
	}
	return prefix
}

// clash returns who already serves one of the methods here, or nil.
func (c *claim) clash(methods []string) *target {
	if c.every != nil {
		return c.every
	}
	if len(methods) == 0 {
		for _, name := range strings.FieldsFunc(c.allow, func(r rune) bool { return r == ',' || r == ' ' }) {
			return c.methods[name]
		}
	}
	for _, m := range methods {
		if t := c.methods[m]; t != nil {
			return t
		}
	}
	return nil
}
