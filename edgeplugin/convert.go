package edgeplugin

import (
	"strings"

	"gw/edgeplugin/pluginv1"
)

func requestOf(r *pluginv1.Request) *EnrichedRequest {
	e := &EnrichedRequest{RequestID: r.GetRequestId(), ExchangeID: r.GetExchangeId(), Method: r.GetMethod(), Path: r.GetPath(), Query: r.GetQuery(), Host: r.GetHost(),
		RemoteAddress: r.GetRemoteAddress(), Headers: headersOf(r.GetHeaders()), Body: r.GetBody(), BodyOmitted: r.GetBodyOmitted(),
		Target: r.GetTarget(), Model: r.GetModel()}
	if a := r.GetApp(); a != nil {
		e.App = &App{ID: a.Id, Name: a.Name}
	}
	return e
}

func headersOf(headers []*pluginv1.Header) map[string]string {
	m := make(map[string]string, len(headers))
	for _, h := range headers {
		separator := ", "
		if h.Name == "Cookie" {
			separator = "; "
		}
		m[h.Name] = strings.Join(h.Values, separator)
	}
	return m
}

// decisionOf translates an answer; onResponse says which body a modification is of.
func decisionOf(p *PluginResponse, onResponse bool) *pluginv1.Decision {
	if p == nil {
		return &pluginv1.Decision{}
	}
	d := &pluginv1.Decision{Modified: p.Modified, Block: p.Block, StatusCode: int32(p.StatusCode), RemoveHeaders: p.RemoveHeaders, ErrorMessage: text(p.ErrorMessage)}
	for name, value := range p.Headers {
		d.Headers = append(d.Headers, &pluginv1.Header{Name: name, Values: []string{value}})
	}
	body := p.Body
	if onResponse {
		body = p.ResponseBody
	}
	switch {
	case p.Block:
		d.ResponseBody = p.ResponseBody
	case p.Modified && body != nil:
		d.Body, d.ReplaceBody = body, true
	}
	if p.App != nil {
		d.Authenticated = &pluginv1.App{Id: p.App.ID, Name: p.App.Name, Targets: p.App.Targets, Policies: p.App.Policies}
	}
	return d
}
