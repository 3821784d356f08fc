package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"gw/edgeplugin/pluginv1"
)

// wantsAnswerBody reports whether a plugin of the target reads answers.
func (x *exchange) wantsAnswerBody() bool {
	if !x.held {
		return false
	}
	for _, i := range x.target.hooks.response {
		if _, wants, _ := x.serving.plugins.Needs(i); wants {
			return true
		}
	}
	return false
}

// onResponse shows the answer to the target's plugins before any of it is returned, and does what they say. over: the
// caller has been answered.
func (x *exchange) onResponse(ctx context.Context, f *flow, resp *http.Response) (out outcome, over bool) {
	chain := x.target.hooks.response
	body, whole, err := x.answerBody(f, resp)
	if err != nil {
		return x.brokenWhole(ctx, err), true
	}
	f.chunks = f.streams && len(x.target.hooks.chunk) > 0
	if f.chunks {
		delete(resp.Header, "Content-Length")
	}
	if len(chain) == 0 {
		return complete, false
	}
	shown := &pluginv1.Response{Request: x.shown(), StatusCode: int32(resp.StatusCode), Streams: f.streams}
	for _, i := range chain {
		d, err := x.askAbout(i, shown, resp, body, whole)
		switch {
		case x.r.Context().Err() != nil:
			return x.end(clientGone), true
		case err != nil && x.fails(i, err):
			return x.end(pluginFailed), true
		case err != nil:
			continue
		case d.Block:
			return x.blocked(d, pluginv1.Hook_HOOK_ON_RESPONSE), true
		case !d.Modified:
			continue
		}
		replaces := d.ReplaceBody && !f.streams && x.r.Method != http.MethodHead
		if replaces {
			delete(resp.Header, "Content-Encoding") // it was the other body's
		}
		editHeader(resp.Header, d)
		if d.StatusCode >= 200 && d.StatusCode <= 599 {
			resp.StatusCode = int(d.StatusCode)
		}
		if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
			resp.Body, resp.ContentLength = http.NoBody, 0
			delete(resp.Header, "Content-Length")
			continue
		}
		if replaces {
			if !x.takeMemory(len(d.Body)) {
				return x.end(overloaded), true
			}
			body, whole = d.Body, true
			resp.Body = io.NopCloser(bytes.NewReader(body))
			resp.ContentLength = int64(len(body))
			resp.Header["Content-Length"] = []string{strconv.Itoa(len(body))}
		}
	}
	return complete, false
}

// askAbout asks one plugin about an answer.
func (x *exchange) askAbout(i int, shown *pluginv1.Response, resp *http.Response, body []byte, whole bool) (*pluginv1.Decision, error) {
	if !x.held {
		return nil, errNoPlugins
	}
	shown.Headers, shown.StatusCode = shownHeaders(resp.Header), int32(resp.StatusCode)
	shown.Body, shown.BodyOmitted = nil, false
	if _, wants, limit := x.serving.plugins.Needs(i); wants && resp.ContentLength != 0 {
		if whole && int64(len(body)) <= limit {
			shown.Body = body
		} else {
			shown.BodyOmitted = true
		}
	}
	d, err := x.serving.plugins.Response(x.r.Context(), i, shown)
	if err == nil && d == nil {
		err = errNoDecision
	}
	return d, err
}

// maxAnswerBody is the largest answer that is read whole for plugins.
const maxAnswerBody = 4 << 20

// answerBody reads the answer's body if a plugin wants it and it does not stream; whole: it is there. One of unknown length
// streams unless it is a document, which many vendors send that way: then it is read, and flows on if it is too large.
func (x *exchange) answerBody(f *flow, resp *http.Response) (body []byte, whole bool, err error) {
	known := resp.ContentLength > 0 && resp.ContentLength <= maxAnswerBody && !f.streams
	if !known && (resp.ContentLength >= 0 || f.events || !isDocument(mediaType(resp.Header))) {
		return nil, false, nil
	}
	if x.r.Method == http.MethodHead || !x.wantsAnswerBody() {
		return nil, false, nil
	}
	if known {
		body, err = x.readKnown(resp)
		whole = true
	} else {
		body, whole, err = x.readUpTo(resp.Body, maxAnswerBody)
	}
	if err != nil {
		return nil, false, err
	}
	if !whole {
		resp.Body = prefixed{io.MultiReader(bytes.NewReader(body), resp.Body), resp.Body}
		return nil, false, nil
	}
	f.streams = false
	if f.scans { // usage is looked for in what the upstream sent, whatever plugins make of it
		x.scan.Write(body) // never fails
		f.scans = false
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return body, true, nil
}

// isDocument reports whether an answer of a media type is made to be read as a whole.
func isDocument(kind string) bool {
	switch {
	case kind == "application/json", kind == "application/xml":
		return true
	case strings.HasSuffix(kind, "+json"), strings.HasSuffix(kind, "+xml"):
		return kind != "application/stream+json"
	}
	return strings.HasPrefix(kind, "text/") && kind != "text/event-stream"
}

// prefixed is a body of which the beginning has been read.
type prefixed struct {
	io.Reader
	io.Closer
}

// readKnown reads a body whose length is known.
func (x *exchange) readKnown(resp *http.Response) ([]byte, error) {
	if !x.takeMemory(int(resp.ContentLength)) {
		return nil, errOverloaded
	}
	body := make([]byte, resp.ContentLength)
	x.dog.watch(waitUpstream)
	_, err := io.ReadFull(resp.Body, body)
	x.dog.watch(waitNothing)
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	return body, nil
}

// readUpTo reads a body to its end, or until it has more than limit bytes: then whole is false, and body is how it begins.
func (x *exchange) readUpTo(from io.Reader, limit int) (body []byte, whole bool, err error) {
	defer x.dog.watch(waitNothing)
	for len(body) <= limit {
		if len(body) == cap(body) {
			more := max(copyBuffer, cap(body))
			if !x.takeMemory(more) {
				return nil, false, errOverloaded
			}
			body = append(make([]byte, 0, cap(body)+more), body...)
		}
		x.dog.watch(waitUpstream)
		n, err := from.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err == io.EOF {
			return body, len(body) <= limit, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("read answer: %w", err)
		}
	}
	return body, false, nil
}

var errOverloaded = errors.New("no memory is left for the answer")

// brokenWhole says what to make of an answer that could not be read for plugins; nothing of it has been returned.
// The context is that of the upstream's request.
func (x *exchange) brokenWhole(ctx context.Context, err error) outcome {
	cause := context.Cause(ctx)
	switch {
	case errors.Is(err, errOverloaded):
		return x.end(overloaded)
	case errors.Is(cause, errCut):
		return x.end(badToken)
	case x.r.Context().Err() != nil:
		return x.end(clientGone)
	case errors.Is(cause, errUpstreamIdle):
		x.upstreamFailed = true
		return x.end(upstreamSlow)
	}
	x.upstreamFailed, x.cause = true, err
	return x.end(upstreamBroken)
}

// onChunk shows a piece of an answer that streams to the target's plugins, and returns what is to be passed on instead.
// The error wraps errPlugin if the stream is to end here.
func (x *exchange) onChunk(piece []byte) ([]byte, error) {
	c := &pluginv1.StreamChunk{RequestId: x.id, ExchangeId: x.ownID(), Target: x.target.ref, Sequence: x.chunk, Data: piece}
	x.chunk++
	for _, i := range x.target.hooks.chunk {
		var (
			d   *pluginv1.StreamChunkDecision
			err = errNoPlugins
		)
		if x.held {
			d, err = x.serving.plugins.Chunk(context.WithoutCancel(x.r.Context()), i, c)
		}
		switch {
		case err != nil && x.fails(i, err):
			return nil, fmt.Errorf("%w: %w", errPlugin, err)
		case err != nil || d == nil:
			continue
		case d.Block:
			return nil, fmt.Errorf("%w: %s", errPlugin, d.ErrorMessage)
		case d.Modified:
			c.Data = d.Data
		}
		if len(c.Data) == 0 {
			break
		}
	}
	return c.Data, nil
}
