package gateway

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// App is who makes a request, as its token says. It is immutable and may be shared by any number of requests.
type App struct {
	// ID, Name and TokenID identify the app and the token it was reached by, for logs; none is a secret.
	ID, Name, TokenID string

	targets  grants
	llms     bool // some LLM is among the targets
	policies []string
}

// NewApp makes an app that may call targets ("LLM/openai", "API/orders", "LLM/*", "*") and whose every request must pass
// policies. Entries of targets in another form grant nothing. The slices are copied.
func NewApp(id, name, tokenID string, targets, policies []string) *App {
	a := &App{ID: id, Name: name, TokenID: tokenID, targets: make(grants, len(targets))}
	for _, t := range targets {
		a.targets[t] = struct{}{}
		a.llms = a.llms || t == "*" || strings.HasPrefix(t, "LLM/")
	}
	a.policies = append(a.policies, policies...)
	return a
}

// grants is the set of what an app may call, as it was written.
type grants map[string]struct{}

// allow reports whether the target is in the set by its name or by a pattern.
func (g grants) allow(t *target) bool {
	return g.has(t.ref) || g.has(t.kind.every()) || g.has("*")
}

func (g grants) has(ref string) bool {
	_, ok := g[ref]
	return ok
}

// Authenticator knows tokens.
type Authenticator interface {
	// Authenticate returns the app a token belongs to, given the SHA-256 of the credential and the address, host:port, of
	// who shows it. The error is ErrUnknownToken if there is no such token (any more), *Unavailable if that can't be
	// decided now, or *Throttled if it is not looked into because of who asks; it blocks until one of these is known or
	// ctx ends.
	Authenticate(ctx context.Context, hash [32]byte, client string) (*App, error)
}

// ErrUnknownToken says that a token doesn't exist, has expired or was revoked.
var ErrUnknownToken = errors.New("unknown token")

// Unavailable says that nobody who could know a token answers.
type Unavailable struct {
	// RetryAfter is when a second attempt makes sense; less than a second counts as one.
	RetryAfter time.Duration
}

// Error returns what happened and when to come back.
func (u *Unavailable) Error() string {
	return fmt.Sprintf("token can't be validated now, retry in %v", u.RetryAfter)
}

// Throttled says that a token is not looked into because too many unknown ones came from the same client.
type Throttled struct {
	// RetryAfter is when the next one is; less than a second counts as one.
	RetryAfter time.Duration
}

// Error returns what happened and when to come back.
func (t *Throttled) Error() string {
	return fmt.Sprintf("too many unknown tokens, retry in %v", t.RetryAfter)
}
