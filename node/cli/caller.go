package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
)

// Between the repetitions of a call that found no leader: the first wait, which doubles, and the longest.
const (
	firstPause      = 100 * time.Millisecond
	longestPause    = time.Second
	defaultPatience = 5 * time.Second
)

// caller is the interceptor that says who calls and makes repeated calls harmless. It serves one command, whose calls
// follow one another.
type caller struct {
	hub, token string
	context    *Context
	// stale: reads take what the answering hub has.
	stale bool
	// told: that calls are repeated; how old stale answers are.
	toldRepeat, toldAge bool
}

var _ connect.Interceptor = (*caller)(nil)

func (k *caller) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		k.sign(req.Header(), req.Spec())
		res, err := k.repeat(ctx, req, next)
		if err != nil {
			return nil, &hubError{k.hub, err}
		}
		k.tellAge(res.Header())
		return res, nil
	}
}

// repeat calls until the cluster has taken the call or refused it, or patience is over. Every time it carries the same
// idempotency key, so that what was done already is not done again.
func (k *caller) repeat(ctx context.Context, req connect.AnyRequest, next connect.UnaryFunc) (connect.AnyResponse, error) {
	var (
		unknown error // an earlier call whose outcome nobody knows
		start   = time.Now()
		pause   = firstPause
	)
	for {
		res, err := next(ctx, req)
		if err == nil {
			return res, nil
		}
		if answerLost(req.Spec(), err) {
			err = unknownOutcome(err)
		}
		reason := detailOf(err).GetReason()
		if connect.CodeOf(err) == connect.CodeUnavailable && reason == "unknown_outcome" {
			unknown = err
		}
		// What a hub refuses for another reason was looked up by its key. What tells nothing leaves the outcome as unknown
		// as it was.
		known := unknown == nil || reason != "" && !again[reason]
		if known && !mayRepeat(err) || time.Since(start)+pause > k.patience() || once[req.Spec().Procedure] {
			if !known {
				err = unknown
			}
			return nil, err
		}
		k.tellRepeat()
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
		pause = min(2*pause, longestPause)
	}
}

// again are the reasons that pass when there is a leader.
var again = map[string]bool{"not_proposed": true, "unknown_outcome": true, "not_leader": true}

// once are the calls that write nothing that could carry their key, so that a second attempt may do a second thing.
var once = map[string]bool{gwv1connect.ClusterServiceTransferLeadershipProcedure: true}

// mayRepeat tells whether the same call can succeed in a moment.
func mayRepeat(err error) bool {
	return connect.CodeOf(err) == connect.CodeUnavailable && again[detailOf(err).GetReason()]
}

// answerLost tells whether the connection broke after a change may have arrived.
func answerLost(spec connect.Spec, err error) bool {
	return spec.IdempotencyLevel != connect.IdempotencyNoSideEffects && detailOf(err) == nil &&
		(errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE))
}

// unknownOutcome returns err as what a hub says when it can't tell what became of a change.
func unknownOutcome(err error) error {
	unknown := connect.NewError(connect.CodeUnavailable, fmt.Errorf("the connection broke before there was an answer: %w", err))
	if detail, err := connect.NewErrorDetail(&gwv1.ErrorDetail{Reason: "unknown_outcome"}); err == nil {
		unknown.AddDetail(detail)
	}
	return unknown
}

func (k *caller) patience() time.Duration {
	if k.context.Patience == 0 {
		return defaultPatience
	}
	return k.context.Patience
}

func (k *caller) tellRepeat() {
	if !k.toldRepeat && k.context.isTerminal(k.context.Stderr) {
		k.context.say("The cluster can't take that right now. Trying again…")
	}
	k.toldRepeat = true
}

// tellAge tells how old an answer is that is not the cluster's newest.
func (k *caller) tellAge(header http.Header) {
	age := header.Get("Gw-Age")
	if !k.stale || k.toldAge || age == "" {
		return
	}
	k.toldAge = true
	k.context.say("This is what the hub had %s ago; the leader was not asked.", spokenAge(age))
}

// spokenAge returns a duration, "1.5s" or a number of seconds, as people say it.
func spokenAge(age string) string {
	d, err := time.ParseDuration(age)
	if err != nil {
		if d, err = time.ParseDuration(age + "s"); err != nil {
			return age
		}
	}
	if d < time.Minute {
		return d.Round(time.Millisecond).String()
	}
	return span(d)
}

func (k *caller) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		k.sign(conn.RequestHeader(), spec)
		return conn
	}
}

func (k *caller) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func (k *caller) sign(header http.Header, spec connect.Spec) {
	if k.token != "" {
		header.Set("Authorization", "Bearer "+k.token)
	}
	if spec.IdempotencyLevel != connect.IdempotencyNoSideEffects {
		header.Set("Idempotency-Key", newIdempotencyKey())
	} else if k.stale {
		header.Set("Gw-Consistency", "stale")
	}
}

// Stale is the flag of commands that can do without the leader.
type Stale struct {
	Stale bool `help:"Take what the answering hub has, also without a leader, and tell on standard error how old it is."`
}

// openStale is Connection.open, with reads that need no leader if the flag says so.
func (s *Stale) openStale(c *Context, n *Connection) (*hub, error) {
	h, err := n.open(c)
	if err == nil {
		h.caller.stale = s.Stale
	}
	return h, err
}
