package gateway

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
)

// wantsWebSocket reports whether the request wants a WebSocket. No other protocol is passed on: over HTTP/2, for one, a
// caller could send the upstream requests that nobody has matched. Such a request is forwarded as if it had not asked.
func (x *exchange) wantsWebSocket() bool {
	return isWebSocket(x.r.Header) && x.r.ProtoMajor == 1 && x.r.Method == http.MethodGet && !x.hasBody()
}

// errOtherProtocol: the upstream switched to another protocol than it was asked to.
var errOtherProtocol = errors.New("upstream switched to a protocol nobody asked for")

// isWebSocket reports whether a header switches to WebSockets and nothing else.
func isWebSocket(h http.Header) bool {
	up := h["Upgrade"]
	return len(up) == 1 && strings.EqualFold(up[0], "websocket") && hasToken(h["Connection"], "upgrade")
}

// errRefusedSwitch: the upstream answered as if it had not been asked to switch, and the answer has been returned.
var errRefusedSwitch = errors.New("upstream did not switch")

// upgrade forwards a request for a WebSocket. Once the upstream has switched, bytes pass both ways until either side or a
// revocation ends it, and no plugin sees them. Until then the timeout for the answer's header applies, afterwards none: such
// connections may be silent for long. If the upstream doesn't switch, its answer is returned like any other.
func (x *exchange) upgrade(rt *runtime, rest string) outcome {
	protocol := x.r.Header["Upgrade"]
	if r := x.outboundHeader(); r != nil {
		return x.end(r)
	}
	x.r.Header["Connection"], x.r.Header["Upgrade"] = []string{"Upgrade"}, protocol
	i := x.target.pick()
	x.upstream = &x.target.upstreams[i]
	ctx, cancel := context.WithCancelCause(x.r.Context())
	defer cancel(nil)
	x.cancel = cancel
	if r := x.lasts(); r != nil {
		return x.end(r)
	}
	defer x.g.streams.remove(x)
	x.dog = newWatchdog(x.target.timeouts, cancel, x.w)
	defer x.dog.stop()
	x.dog.watch(waitHeader)
	ended := complete
	proxy := httputil.ReverseProxy{
		Transport: rt.transports[i],
		Rewrite:   func(p *httputil.ProxyRequest) { x.rewrite(p, rest) },
		ErrorLog:  log.New(io.Discard, "", 0),
		ModifyResponse: func(resp *http.Response) error {
			x.dog.watch(waitNothing)
			if resp.StatusCode != http.StatusSwitchingProtocols {
				x.answered = true
				ended = x.respond(ctx, resp)
				return errRefusedSwitch
			}
			if !isWebSocket(resp.Header) {
				return errOtherProtocol
			}
			// Until the connection is taken over, the switch may still be refused: no header is written yet.
			x.answered, x.status = true, resp.StatusCode
			for name := range resp.Header {
				if strings.HasPrefix(name, gatewayHeaders) {
					delete(resp.Header, name)
				}
			}
			x.target.response.apply(resp.Header)
			x.idHeader(resp.Header)
			return nil
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			if err == errRefusedSwitch {
				return
			}
			ended = x.end(x.unanswered(ctx, err))
		},
	}
	proxy.ServeHTTP(x.w, x.r.WithContext(ctx))
	x.aborted = x.aborted || context.Cause(ctx) == errCut
	return ended
}

func (x *exchange) rewrite(p *httputil.ProxyRequest, rest string) {
	p.Out.URL = &url.URL{
		Scheme: x.upstream.scheme, Host: x.upstream.host,
		Opaque:   joinPath(x.upstream.path, rest),
		RawQuery: p.In.URL.RawQuery, ForceQuery: p.In.URL.ForceQuery,
	}
	p.Out.Host = ""
	for name, values := range p.In.Header {
		if claimsOrigin(name) { // the proxy took them off, though they are the gateway's and the target's by now
			p.Out.Header[name] = values
		}
	}
}
