package gateway

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
)

// upgrade forwards a request that wants another protocol, such as a WebSocket. Once the upstream has switched, bytes pass
// both ways until either side or a revocation ends it; no timeout applies, as such connections are silent for long.
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
	proxy := httputil.ReverseProxy{
		Transport:     rt.transports[i],
		Rewrite:       func(p *httputil.ProxyRequest) { x.rewrite(p, rest) },
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ModifyResponse: func(resp *http.Response) error {
			x.answered, x.wroteHeader, x.status = true, true, resp.StatusCode
			for name := range resp.Header {
				if hopByHop(name) && resp.StatusCode != http.StatusSwitchingProtocols {
					resp.Header.Del(name)
				}
			}
			x.target.response.apply(resp.Header)
			x.idHeader(resp.Header)
			return nil
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			x.refuse(x.unanswered(ctx, err))
		},
	}
	proxy.ServeHTTP(x.w, x.r.WithContext(ctx))
	x.aborted = context.Cause(ctx) == errCut
	return complete
}

func (x *exchange) rewrite(p *httputil.ProxyRequest, rest string) {
	p.Out.URL = &url.URL{
		Scheme: x.upstream.scheme, Host: x.upstream.host,
		Opaque:   joinPath(x.upstream.path, rest),
		RawQuery: p.In.URL.RawQuery, ForceQuery: p.In.URL.ForceQuery,
	}
	p.Out.Host = ""
	x.origin(p.Out.Header)
}
