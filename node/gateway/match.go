package gateway

import (
	"net"
	"strings"
)

// route is where a request goes.
type route struct {
	// target serves it; nil if surface says that the gateway answers by itself, or that nobody does.
	target  *target
	surface surface
	// prefix is how many bytes of the decoded path belong to the route: what strip_prefix takes off.
	prefix int
	// allow lists the methods that would have matched, for "Allow", if only the method did not.
	allow string
}

// surface is what of the gateway a request addresses.
type surface uint8

const (
	surfaceNone   surface = iota // nothing serves the path
	surfaceMethod                // something does, but not for the method
	surfaceAPI
	surfaceLLM    // /llm/{name}/…; target is nil if there is no such LLM
	surfaceOpenAI // /v1/…
)

// Where the gateway's own surfaces begin.
const (
	llmPrefix    = "/llm"
	openAIPrefix = "/v1"
)

// match finds what serves a request: APIs that claim its host, exactly or by the longest suffix; then the gateway's own
// surfaces; then APIs of every host. Among the APIs of one host, the longest path prefix decides and then the method.
// ok is false if an encoded slash makes the path lead to two places.
func (t *Table) match(host string, p path, method string) (r route, ok bool) {
	r = t.find(host, p.decoded, method)
	if p.decoded == p.literal {
		return r, true
	}
	other := t.find(host, p.literal, method)
	return other, other == r
}

func (t *Table) find(host, path, method string) route {
	if len(t.exact)+len(t.suffixes) > 0 {
		host = hostName(host)
		if r := t.exact[host].find(path, method); r.surface != surfaceNone {
			return r
		}
		for i := strings.IndexByte(host, '.'); i >= 0 && len(t.suffixes) > 0; {
			if r := t.suffixes[host[i:]].find(path, method); r.surface != surfaceNone {
				return r
			}
			next := strings.IndexByte(host[i+1:], '.')
			if next < 0 {
				break
			}
			i += 1 + next
		}
	}
	if under(path, openAIPrefix) {
		return route{surface: surfaceOpenAI, prefix: len(openAIPrefix)}
	}
	if under(path, llmPrefix) {
		return t.findLLM(path)
	}
	return t.everyHost.find(path, method)
}

func (t *Table) findLLM(path string) route {
	rest := strings.TrimPrefix(path[len(llmPrefix):], "/")
	name, _, _ := strings.Cut(rest, "/")
	return route{surface: surfaceLLM, target: t.llms[name], prefix: min(len(path), len(llmPrefix)+1+len(name))}
}

// under reports whether prefix ends at a segment's border of path.
func under(path, prefix string) bool {
	return strings.HasPrefix(path, prefix) && (len(path) == len(prefix) || path[len(prefix)] == '/')
}

// hostName returns a Host header's name in lower case, without port and final dot.
func hostName(host string) string {
	if strings.LastIndexByte(host, ':') > strings.LastIndexByte(host, ']') {
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// prefixes are the claims on one host: path prefix, without a final slash → who serves it. nil has none.
type prefixes struct {
	claims  map[string]*claim
	longest int
}

// claim is who serves one path prefix of one host.
type claim struct {
	// every serves any method; else methods tells.
	every   *target
	methods map[string]*target
	allow   string
}

func (s *prefixes) find(path, method string) route {
	if s == nil {
		return route{}
	}
	// Longer pieces than the longest claim can't be one; so a long path costs no more than a short one.
	if len(path) > s.longest {
		end := s.longest
		if path[end] != '/' {
			end = max(strings.LastIndexByte(path[:end+1], '/'), 0)
		}
		path = path[:end]
	}
	path = strings.TrimSuffix(path, "/")
	for {
		if c := s.claims[path]; c != nil {
			return c.find(method, len(path))
		}
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return route{}
		}
		path = path[:i]
	}
}

func (c *claim) find(method string, prefix int) route {
	t := c.every
	if t == nil {
		t = c.methods[method]
	}
	if t == nil {
		return route{surface: surfaceMethod, allow: c.allow}
	}
	return route{target: t, surface: surfaceAPI, prefix: prefix}
}
