package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// probe makes up, for every claim of every resource, a request that should reach it, and looks where it goes.
func (t *Table) probe() error {
	probed := make([]bool, len(t.targets))
	for host, p := range t.exact {
		if err := t.probeHost(host, p, probed); err != nil {
			return err
		}
	}
	for suffix, p := range t.suffixes {
		if err := t.probeHost(t.hostUnder(suffix), p, probed); err != nil {
			return err
		}
	}
	if err := t.probeHost("", t.everyHost, probed); err != nil {
		return err
	}
	for name, target := range t.llms {
		if err := t.probePath("", llmPrefix+"/"+name+openAIPrefix, http.MethodPost, target, probed); err != nil {
			return err
		}
	}
	for i, target := range t.targets {
		if !probed[i] || target.index != i {
			return fmt.Errorf("probe %s: no request reaches it", target.ref)
		}
	}
	return nil
}

// hostUnder returns a host name that ends in suffix and that nobody claims more closely.
func (t *Table) hostUnder(suffix string) string {
	label := "probe"
	for t.exact[label+suffix] != nil || t.suffixes["."+label+suffix] != nil {
		label += "-"
	}
	return label + suffix
}

func (t *Table) probeHost(host string, p *prefixes, probed []bool) error {
	if p == nil {
		return nil
	}
	for prefix, c := range p.claims {
		text := (&url.URL{Path: prefix + "/"}).EscapedPath()
		if c.every != nil {
			if err := t.probePath(host, text, http.MethodGet, c.every, probed); err != nil {
				return err
			}
		}
		for method, target := range c.methods {
			if err := t.probePath(host, text, method, target, probed); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *Table) probePath(host, raw, method string, want *target, probed []bool) error {
	p, ok := cleanPath(raw)
	if !ok {
		return fmt.Errorf("probe %s: its path %q is refused", want.ref, raw)
	}
	r, ok := t.match(host, p, method)
	if !ok || r.target != want {
		return fmt.Errorf("probe %s: %s %s%s leads elsewhere", want.ref, method, strings.TrimSuffix(host, "."), raw)
	}
	probed[want.index] = true
	return nil
}
