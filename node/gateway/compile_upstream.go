package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/types/known/durationpb"

	"gw/rpc/gwv1"
)

// What timeouts are when a spec leaves them out.
var (
	apiTimeouts = timeouts{connect: 5 * time.Second, header: 30 * time.Second, idle: time.Minute}
	llmTimeouts = timeouts{connect: 5 * time.Second, header: 10 * time.Minute, idle: 5 * time.Minute}
)

func (s site) upstreams(t *target, specs []*gwv1.Upstream) {
	if len(specs) == 0 {
		s.invalid("spec.upstreams", "is empty", "at least one upstream")
	}
	for i, spec := range specs {
		u, _ := s.upstream(fmt.Sprintf("spec.upstreams[%d].url", i), spec.GetUrl())
		weight := uint32(1)
		if spec.Weight != nil {
			weight = spec.GetWeight()
		}
		if weight < 1 || weight > 1000 {
			s.invalid(fmt.Sprintf("spec.upstreams[%d].weight", i), strconv.FormatUint(uint64(weight), 10)+" is out of range", "1 to 1000")
			continue
		}
		t.weights += weight
		u.upTo = t.weights
		t.upstreams = append(t.upstreams, u)
	}
}

// upstream checks a URL that requests are sent to.
func (s site) upstream(field, text string) (upstream, bool) {
	const expected = `a URL such as "https://api.example.com/base"`
	u, err := url.Parse(text)
	if err != nil {
		// The parser's words would quote the URL with a password that may be in it.
		s.invalid(field, "is no URL", expected)
		return upstream{}, false
	}
	wrong := ""
	switch {
	case u.User != nil:
		wrong = "has a user or password in it; name a secret in the credential instead"
	case u.Scheme != "http" && u.Scheme != "https":
		wrong = fmt.Sprintf("%q does not begin with http:// or https://", text)
	case u.Hostname() == "" || u.Opaque != "" || !validPort(u):
		wrong = fmt.Sprintf("%q names no host, or one with a wrong port", text)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(text, "#"):
		wrong = "has a query or fragment, which requests can't keep"
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	if clean, ok := cleanPath(path); wrong == "" && path != "" && (!ok || clean.escaped != path) {
		wrong = fmt.Sprintf("%q has dot segments or repeated slashes in its path", text)
	}
	if wrong != "" {
		s.invalid(field, wrong, expected)
		return upstream{}, false
	}
	return upstream{scheme: u.Scheme, host: u.Host, path: path}, true
}

func validPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && n > 0
}

func (s site) timeouts(spec *gwv1.Timeouts, def timeouts) timeouts {
	get := func(field string, d *durationpb.Duration, def time.Duration) time.Duration {
		if d == nil {
			return def
		}
		if d.CheckValid() != nil || d.AsDuration() <= 0 {
			s.invalid("spec.timeouts."+field, d.AsDuration().String()+" is no time to wait", `a duration above 0, such as "30s"`)
			return def
		}
		return d.AsDuration()
	}
	return timeouts{
		connect: get("connect", spec.GetConnect(), def.connect),
		header:  get("response_header", spec.GetResponseHeader(), def.header),
		idle:    get("idle", spec.GetIdle(), def.idle),
	}
}

func (s site) credential(field string, spec *gwv1.Credential) *credential {
	if spec == nil {
		return nil
	}
	c := &credential{secret: spec.Secret, header: http.CanonicalHeaderKey(spec.Header), prefix: spec.GetPrefix()}
	if c.header == "" {
		c.header = "Authorization"
	}
	if spec.Prefix == nil && c.header == "Authorization" {
		c.prefix = "Bearer "
	}
	if c.secret == "" {
		s.invalid(field+".secret", "is missing", "the name of a secret")
	}
	s.headerName(field+".header", c.header)
	if !httpguts.ValidHeaderFieldValue(c.prefix) {
		s.invalid(field+".prefix", "can't stand in a header", "printable characters")
	}
	return c
}

// edits compiles header edits. What belongs to a connection, and Host, which follows the upstream's URL, can't be edited.
func (s site) edits(field string, spec *gwv1.HeaderEdits) edits {
	var e edits
	for i, name := range spec.GetRemove() {
		if s.headerName(fmt.Sprintf("%s.remove[%d]", field, i), name) {
			e.remove = append(e.remove, http.CanonicalHeaderKey(name))
		}
	}
	e.set = s.fields(field+".set", spec.GetSet())
	e.add = s.fields(field+".add", spec.GetAdd())
	return e
}

func (s site) fields(at string, values map[string]string) []field {
	var out []field
	seen := map[string]string{} // canonical name → name as written
	for _, name := range slices.Sorted(maps.Keys(values)) {
		here := fmt.Sprintf("%s[%q]", at, name)
		canonical := http.CanonicalHeaderKey(name)
		if !s.headerName(here, name) {
			continue
		}
		if other, twice := seen[canonical]; twice {
			s.invalid(here, fmt.Sprintf("is the same header as %q", other), "each header once")
			continue
		}
		if !httpguts.ValidHeaderFieldValue(values[name]) {
			s.invalid(here, "has a value that can't stand in a header", "printable characters")
			continue
		}
		seen[canonical] = name
		out = append(out, field{canonical, []string{values[name]}})
	}
	return out
}

// headerName checks that a header can be edited.
func (s site) headerName(field, name string) bool {
	canonical := http.CanonicalHeaderKey(name)
	if !httpguts.ValidHeaderFieldName(name) {
		s.invalid(field, fmt.Sprintf("%q is no header's name", name), "letters, digits and hyphens")
		return false
	}
	if hopByHop(canonical) || canonical == "Host" || canonical == "Content-Length" || strings.HasPrefix(canonical, gatewayHeaders) {
		s.invalid(field, canonical+" is the gateway's to set", "a header that is neither Host, nor of the connection, nor X-Gw-…")
		return false
	}
	return true
}
