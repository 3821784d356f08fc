package gateway

import (
	"net"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"

	"gw/rpc/identity"
)

// gatewayHeaders is how the names of the gateway's own headers begin. Nobody else's are let through.
const gatewayHeaders = "X-Gw-"

// hopByHop reports whether a header, by its canonical name, belongs to one connection and not to the message.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Proxy-Authenticate", "Proxy-Authorization":
		return true
	}
	return false
}

// claimsOrigin reports whether a request's header says where the request came from. Whoever sent it can't be trusted
// with that.
func claimsOrigin(name string) bool {
	return strings.HasPrefix(name, "X-Forwarded-") || name == "Forwarded" || name == "X-Real-Ip"
}

// outboundHeader turns the request's header into the upstream's, in place. It returns what can't be served.
func (x *exchange) outboundHeader() *refusal {
	h, t := x.r.Header, x.target
	leaveConnection(h)
	trailers := hasToken(h["Te"], "trailers")
	for name, values := range h {
		switch name[0] {
		case 'A', 'C', 'E', 'F', 'K', 'O', 'P', 'T', 'U', 'X':
			if x.dropsRequest(name, values) {
				delete(h, name)
			}
		}
	}
	if trailers {
		h["Te"] = []string{"trailers"}
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = []string{""} // keeps net/http from adding its own
	}
	if t.kind == kindLLM {
		h["Accept-Encoding"] = []string{"identity"} // the answer's usage has to be read
	} else {
		x.origin(h)
	}
	if t.hooks != nil && (len(t.hooks.chunk) > 0 || x.wantsAnswerBody()) {
		h["Accept-Encoding"] = []string{"identity"} // plugins read it
	}
	t.request.apply(h)
	if t.credential == nil {
		return nil
	}
	value, ok := x.g.secret(t.credential.secret)
	if !ok {
		return secretMissing
	}
	if !httpguts.ValidHeaderFieldValue(value) {
		return secretUnusable
	}
	h[t.credential.header] = []string{t.credential.prefix + value}
	return nil
}

// dropsRequest reports whether a header of the request stays here.
func (x *exchange) dropsRequest(name string, values []string) bool {
	switch name {
	case "Authorization", "X-Api-Key", "Api-Key":
		return holdsToken(name, values)
	case "Openai-Organization", "Openai-Project":
		return x.target.kind == kindLLM && x.target.credential != nil
	case "Expect":
		return x.bodyRead || len(x.body) > 0 // the caller was told to send it
	}
	return hopByHop(name) || claimsOrigin(name) || strings.HasPrefix(name, gatewayHeaders)
}

// holdsToken reports whether a header carries a token of the gateway, which nobody behind it may see.
func holdsToken(name string, values []string) bool {
	for _, v := range values {
		if tokenIn(name, v) != "" || identity.CheckCredential(identity.AppTokenPrefix, v) {
			return true
		}
	}
	return false
}

// origin tells the upstream of an API where the request came from. Vendors of models are not told.
func (x *exchange) origin(h http.Header) {
	values := [3]string{clientIP(x.r.RemoteAddr), x.r.Host, "http"}
	if x.r.TLS != nil {
		values[2] = "https"
	}
	h["X-Forwarded-For"] = values[0:1:1]
	h["X-Forwarded-Host"] = values[1:2:2]
	h["X-Forwarded-Proto"] = values[2:3:3]
	x.idHeader(h)
}

// clientIP returns the address of "address:port" without copying it.
func clientIP(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return host
	}
	return remote
}

// leaveConnection removes from a request's header what the caller says is of the connection only; but a wish to switch
// protocols is kept. What is set from then on stays, whatever the caller named.
func leaveConnection(h http.Header) {
	connection := h["Connection"]
	if connection == nil {
		return
	}
	dropNamed(h, connection)
	delete(h, "Connection")
	if hasToken(connection, "upgrade") {
		h["Connection"] = []string{"Upgrade"}
	}
}

// dropNamed removes the headers that values of Connection name.
func dropNamed(h http.Header, connection []string) {
	for _, v := range connection {
		for name := range strings.SplitSeq(v, ",") {
			switch name = http.CanonicalHeaderKey(strings.Trim(name, " \t")); name {
			case "Close", "Keep-Alive", "Upgrade", "": // are no headers, or go anyway
			default:
				delete(h, name)
			}
		}
	}
}

// hasToken reports whether one of the comma-separated values is token, in any case.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			name, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.Trim(name, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// dropsAnswer reports whether a header of the upstream's answer stays here. What a vendor says about the account is not
// for callers, unless it is their own.
func (x *exchange) dropsAnswer(name string) bool {
	switch name[0] {
	case 'C', 'K', 'P', 'T', 'U', 'X':
		if hopByHop(name) || strings.HasPrefix(name, gatewayHeaders) {
			return true
		}
	}
	if x.target.kind != kindLLM || x.target.credential == nil {
		return false
	}
	switch name {
	case "Openai-Organization", "Openai-Project", "Set-Cookie":
		return true
	}
	return strings.HasPrefix(name, "X-Ratelimit-") || strings.HasPrefix(name, "Anthropic-Ratelimit-")
}

// inboundHeader puts the upstream's header into the answer's.
func (x *exchange) inboundHeader(from http.Header) {
	h := x.w.Header()
	dropNamed(from, from["Connection"])
	for name, values := range from {
		if !x.dropsAnswer(name) {
			h[name] = values
		}
	}
	x.target.response.apply(h)
	x.idHeader(h)
}
