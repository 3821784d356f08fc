package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
)

// outbound is what one forwarded request needs on the heap, in one piece.
type outbound struct {
	url   url.URL
	body  bytes.Reader
	trace httptrace.ClientTrace
}

// forward sends the request to one of the target's upstreams, with rest as its path below the upstream's, and returns
// the answer.
func (x *exchange) forward(rt *runtime, rest string) outcome {
	t := x.target
	if x.hasBody() && !x.bodyRead {
		if x.r.ContentLength > x.g.maxBody {
			return x.end(tooLarge)
		}
		if x.r.ContentLength > 0 && x.r.ContentLength <= smallBody && len(x.r.Trailer) == 0 {
			if r := x.readBody(t.timeouts.idle); r != nil {
				return x.end(r)
			}
		}
	}
	if r := x.outboundHeader(); r != nil {
		return x.end(r)
	}
	i := t.pick()
	x.upstream = &t.upstreams[i]
	ctx, cancel := context.WithCancelCause(x.r.Context())
	defer cancel(nil)
	x.cancel = cancel
	x.dog = newWatchdog(t.timeouts, cancel, x.w)
	defer x.dog.stop()
	defer x.up.finish()

	resp, err := rt.transports[i].RoundTrip(x.outbound(ctx, rest))
	x.mu.Lock()
	x.answerOn = true
	x.dog.watch(waitNothing)
	x.mu.Unlock()
	if err != nil {
		return x.end(x.unanswered(ctx, err))
	}
	defer resp.Body.Close()
	x.answered = true
	return x.respond(ctx, resp)
}

// outbound makes the upstream's request.
func (x *exchange) outbound(ctx context.Context, rest string) *http.Request {
	o := &outbound{trace: httptrace.ClientTrace{Got1xxResponse: x.informational, WroteRequest: x.written}}
	o.url = url.URL{
		Scheme: x.upstream.scheme, Host: x.upstream.host,
		// As opaque, the path is sent byte for byte; no path begins with two slashes here.
		Opaque:     joinPath(x.upstream.path, rest),
		RawQuery:   x.r.URL.RawQuery,
		ForceQuery: x.r.URL.ForceQuery,
	}
	req := http.Request{
		Method: x.r.Method, URL: &o.url, Header: x.r.Header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	switch {
	case x.bodyRead && len(x.body) > 0:
		// Of a reader of this type, net/http knows that it won't block, and sends header and body together.
		o.body.Reset(x.body)
		req.Body, req.ContentLength = io.NopCloser(&o.body), int64(len(x.body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(x.body)), nil }
	case !x.bodyRead && x.hasBody():
		if len(x.body) > 0 {
			x.r.Body = prefixed{io.MultiReader(bytes.NewReader(x.body), x.r.Body), x.r.Body}
		}
		x.up.start(x)
		req.Body, req.ContentLength, req.Trailer = &x.up, x.r.ContentLength, x.r.Trailer
	}
	return req.WithContext(httptrace.WithClientTrace(ctx, &o.trace))
}

// joinPath puts an upstream's path before a request's.
func joinPath(base, rest string) string {
	switch {
	case base == "" && rest == "":
		return "/"
	case base == "":
		return rest
	case rest == "":
		return base
	}
	return base + rest
}

// written starts the wait for the answer. The transport calls it from another goroutine, maybe when the answer is there.
func (x *exchange) written(httptrace.WroteRequestInfo) { x.watchRequest(waitHeader) }

// watchRequest keeps the time of a wait before the answer. Once that has begun, only its own waits count.
func (x *exchange) watchRequest(w wait) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.answerOn {
		x.dog.watch(w)
	}
}

// informational passes a 1xx answer on. The transport calls it, maybe from another goroutine.
func (x *exchange) informational(code int, header textproto.MIMEHeader) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.answerOn || code == http.StatusContinue || code == http.StatusSwitchingProtocols {
		return nil // the server says 100 by itself when the body is read
	}
	h := x.w.Header()
	for name, values := range header {
		if !x.dropsAnswer(name) {
			h[name] = values
		}
	}
	x.w.WriteHeader(code)
	clear(h)
	return nil
}

// unanswered says what to make of a request that got no answer.
func (x *exchange) unanswered(ctx context.Context, err error) *refusal {
	var timeout interface{ Timeout() bool }
	cause := context.Cause(ctx)
	switch state := x.up.state.Load(); {
	case state == uploadTooLarge:
		return tooLarge
	case errors.Is(cause, errClientSlow):
		return clientSlow
	case errors.Is(cause, errCut):
		return badToken
	case state == uploadFailed:
		return x.readFailed(x.up.failure)
	case x.r.Context().Err() != nil:
		return clientGone
	}
	x.upstreamFailed, x.cause = true, err
	if errors.Is(err, errOtherProtocol) {
		return upstreamBroken
	}
	if errors.Is(cause, errUpstreamFull) || errors.Is(cause, errHeaderSlow) || errors.As(err, &timeout) && timeout.Timeout() {
		return upstreamSlow
	}
	x.g.logger.Debug("upstream unreachable", "target", x.target.ref, "upstream", x.upstream.host, "error", err)
	return upstreamDown
}

// respond returns the upstream's answer.
func (x *exchange) respond(ctx context.Context, resp *http.Response) outcome {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		x.upstreamFailed, x.cause = true, errors.New("upstream switched protocols unasked")
		return x.end(upstreamBroken)
	}
	flow := flowOf(x, resp)
	if x.target.hooks != nil {
		if out, over := x.onResponse(ctx, &flow, resp); over {
			return out
		}
	}
	if flow.streams {
		if r := x.lasts(); r != nil {
			return x.end(r)
		}
		defer x.g.streams.remove(x)
	}
	x.inboundHeader(resp.Header)
	trailers := announce(x.w.Header(), resp.Trailer)
	x.lastOfConnection()
	x.status, x.wroteHeader = resp.StatusCode, true
	x.w.WriteHeader(resp.StatusCode)
	if x.r.Method == http.MethodHead || resp.ContentLength == 0 || resp.Body == http.NoBody {
		return complete
	}
	if err := x.copyBody(flow, resp); err != nil {
		return x.broken(ctx, flow, err)
	}
	x.trailers(resp.Trailer, trailers)
	return complete
}

// lastOfConnection ends the connection after this answer if the body was not read to its end: what is left of it would be
// taken for the next request.
func (x *exchange) lastOfConnection() {
	if x.r.ProtoMajor == 1 && x.up.incomplete() {
		x.w.Header()["Connection"] = []string{"close"}
	}
}

// announce names the trailers the upstream promised, and returns how many.
func announce(h http.Header, trailer http.Header) int {
	for name := range trailer {
		h.Add("Trailer", name)
	}
	return len(trailer)
}

// trailers passes the answer's trailers on, those that were not announced too.
func (x *exchange) trailers(trailer http.Header, announced int) {
	h := x.w.Header()
	for name, values := range trailer {
		if len(trailer) != announced {
			name = http.TrailerPrefix + name
		}
		h[name] = values
	}
}

// broken says what to make of an answer that could not be returned to its end. An event stream that stands between two
// events ends with an error the SDKs raise; anything else is cut off, so that nobody takes it for complete.
func (x *exchange) broken(ctx context.Context, f flow, err error) outcome {
	cause := context.Cause(ctx)
	var r *refusal
	switch {
	case errors.Is(cause, errCut):
		r, x.aborted = badToken, true
	case errors.Is(cause, errClientFull), errors.Is(err, errClientWrite), x.r.Context().Err() != nil:
		x.code, x.aborted = clientGone.code, true
		return abort
	case errors.Is(err, errPlugin):
		r, x.cause = pluginFailed, err
	case errors.Is(cause, errUpstreamIdle):
		r, x.upstreamFailed = upstreamSlow, true
	default:
		r, x.upstreamFailed, x.cause = upstreamBroken, true, fmt.Errorf("read answer: %w", err)
	}
	x.code, x.aborted = r.code, true
	if !x.openAI || !f.events || !f.scans || !x.border.Between() { // in what is encoded, no event can be written
		_ = http.NewResponseController(x.w).Flush() // what did arrive, the caller gets
		return abort
	}
	n, err := x.w.Write(r.error().AppendEvent(nil))
	x.bytes += int64(n)
	if err != nil {
		return abort
	}
	return complete
}
