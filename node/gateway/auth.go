package gateway

import (
	"errors"
	"strings"

	"gw/rpc/identity"
)

// credentialHeaders are where callers put their token.
var credentialHeaders = [...]string{"Authorization", "X-Api-Key", "Api-Key"}

// authenticate finds out which app makes the request. Only strings that have a token's form reach the Authenticator.
func (x *exchange) authenticate() *refusal {
	if x.vouched {
		return nil
	}
	token := ""
	for _, name := range credentialHeaders {
		if values := x.r.Header[name]; len(values) == 1 {
			if token = tokenIn(name, values[0]); token != "" {
				break
			}
		}
	}
	if token == "" {
		return noToken
	}
	x.cuts = x.g.streams.cuts.Load()
	hash := identity.HashCredential(token)
	app, err := x.g.auth.Authenticate(x.r.Context(), hash, x.r.RemoteAddr)
	if err != nil || app == nil {
		return x.unauthenticated(err)
	}
	x.app, x.hash = app, hash
	if x.openAI { // to vendors nothing goes by which callers show who they are; APIs may have credentials of their own
		x.dropCredentials()
	}
	return nil
}

// dropCredentials takes off the request, whose caller is known now, what callers show who they are with. What plugins set
// from then on is for the upstream.
func (x *exchange) dropCredentials() {
	for _, name := range credentialHeaders {
		delete(x.r.Header, name)
	}
	if x.openAI {
		delete(x.r.Header, "X-Goog-Api-Key")
	}
}

// tokenIn returns the token of the gateway a header holds, or "".
func tokenIn(header, value string) string {
	if header == "Authorization" {
		const scheme = "Bearer "
		if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
			return ""
		}
		value = strings.Trim(value[len(scheme):], " ")
	}
	if !identity.CheckCredential(identity.AppTokenPrefix, value) {
		return ""
	}
	return value
}

func (x *exchange) unauthenticated(err error) *refusal {
	var unavailable *Unavailable
	var throttled *Throttled
	switch {
	case err == nil || errors.Is(err, ErrUnknownToken):
		return badToken
	case errors.As(err, &unavailable):
		r := *tokenUnchecked
		r.retryAfter = max(r.retryAfter, unavailable.RetryAfter)
		return &r
	case errors.As(err, &throttled):
		r := *tooManyUnknown
		r.retryAfter = max(r.retryAfter, throttled.RetryAfter)
		return &r
	case x.r.Context().Err() != nil:
		return clientGone
	}
	x.cause = err
	return tokenUnchecked
}

// authorize decides whether the app may call the target. A policy that can't be enforced refuses; it is never skipped.
func (x *exchange) authorize(t *target) *refusal {
	if !x.app.targets.allow(t) {
		return forbidden
	}
	if len(x.app.policies) > 0 {
		return policyMissing
	}
	return nil
}
