package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

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
func (x *exchange) onResponse(f *flow, resp *http.Response) (out outcome, over bool) {
	f.chunks = f.streams && len(x.target.hooks.chunk) > 0
	if f.chunks {
		delete(resp.Header, "Content-Length")
	}
	chain := x.target.hooks.response
	if len(chain) == 0 {
		return complete, false
	}
	shown := &pluginv1.Response{Request: x.shown(), StatusCode: int32(resp.StatusCode), Streams: f.streams}
	body, whole, err := x.answerBody(f, resp)
	if err != nil {
		return x.brokenWhole(err), true
	}
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
		editHeader(resp.Header, d)
		if d.StatusCode >= 200 && d.StatusCode <= 599 {
			resp.StatusCode = int(d.StatusCode)
		}
		if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
			resp.Body, resp.ContentLength = http.NoBody, 0
			delete(resp.Header, "Content-Length")
			continue
		}
		if d.ReplaceBody && !f.streams && x.r.Method != http.MethodHead {
			body, whole = d.Body, true
			resp.Body = io.NopCloser(bytes.NewReader(body))
			resp.ContentLength = int64(len(body))
			resp.Header["Content-Length"] = []string{strconv.Itoa(len(body))}
			delete(resp.Header, "Content-Encoding")
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

// answerBody reads the answer's body if a plugin wants it and it does not stream; whole: it is there. Usage is looked for
// in what the upstream sent, whatever plugins make of it.
func (x *exchange) answerBody(f *flow, resp *http.Response) (body []byte, whole bool, err error) {
	if f.streams || resp.ContentLength <= 0 || resp.ContentLength > maxAnswerBody || x.r.Method == http.MethodHead || !x.wantsAnswerBody() {
		return nil, false, nil
	}
	if !x.takeMemory(int(resp.ContentLength)) {
		return nil, false, errOverloaded
	}
	body = make([]byte, resp.ContentLength)
	x.dog.watch(waitUpstream)
	_, err = io.ReadFull(resp.Body, body)
	x.dog.watch(waitNothing)
	if err != nil {
		return nil, false, fmt.Errorf("read answer: %w", err)
	}
	if f.scans {
		x.scan.Write(body) // never fails
		f.scans = false
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return body, true, nil
}

var errOverloaded = errors.New("no memory is left for the answer")

// brokenWhole says what to make of an answer that could not be read for plugins; nothing of it has been returned.
func (x *exchange) brokenWhole(err error) outcome {
	switch {
	case errors.Is(err, errOverloaded):
		return x.end(overloaded)
	case x.r.Context().Err() != nil:
		return x.end(clientGone)
	}
	x.upstreamFailed, x.cause = true, err
	return x.end(upstreamBroken)
}

// onChunk shows a piece of an answer that streams to the target's plugins, and returns what is to be passed on instead.
// The error wraps errPlugin if the stream is to end here.
func (x *exchange) onChunk(piece []byte) ([]byte, error) {
	c := &pluginv1.StreamChunk{RequestId: x.id, Target: x.target.ref, Sequence: x.chunk, Data: piece}
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
