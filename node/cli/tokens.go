package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"gw/rpc/gwv1"
)

// Tokens is "gw tokens".
type Tokens struct {
	Create TokensCreate `cmd:"" help:"Make a credential of an app. It is printed this once."`
	List   TokensList   `cmd:"" help:"List tokens, without their credentials."`
	Revoke TokensRevoke `cmd:"" help:"End a token; connected edges refuse it within a second."`
}

// Examples returns the examples of the command's help.
func (*Tokens) Examples() string {
	return `
gw tokens create web --ttl 720h --note "CI"
gw tokens list web
gw tokens revoke tok_3f9a`
}

// TokensCreate is "gw tokens create".
type TokensCreate struct {
	App       string        `arg:"" help:"Name of the app."`
	Namespace string        `short:"n" help:"Namespace of the app; default: default."`
	Note      string        `placeholder:"TEXT" help:"What it is for."`
	TTL       time.Duration `name:"ttl" placeholder:"DURATION" help:"When it expires; default: never."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*TokensCreate) Examples() string {
	return `
gw tokens create web
gw tokens create web -n staging --ttl 720h --note "CI"
TOKEN=$(gw tokens create web)`
}

// Run makes a token. Its credential alone goes to stdout, so that a script can take it.
func (t *TokensCreate) Run(ctx context.Context, c *Context) error {
	h, err := t.open(c)
	if err != nil {
		return err
	}
	req := &gwv1.CreateTokenRequest{App: t.App, Namespace: t.Namespace, Note: t.Note}
	if t.TTL != 0 {
		req.Ttl = durationpb.New(t.TTL)
	}
	res, err := h.access.CreateToken(ctx, req)
	if err != nil {
		return err
	}
	if !t.forPeople() {
		return t.one(c, res)
	}
	fmt.Fprintln(c.Stdout, printable(res.GetCredential()))
	token := res.GetToken()
	c.say("Token %s of app %s in %s, expires %s. The line above is shown this once; callers send it as Authorization: Bearer …", token.GetId(), token.GetApp(), token.GetNamespace(), c.until(token.GetExpiresAt()))
	return nil
}

// TokensList is "gw tokens list".
type TokensList struct {
	App       string `arg:"" optional:"" help:"Only of this app."`
	Namespace string `short:"n" help:"Namespace; default: all, or default for one app."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*TokensList) Examples() string { return "gw tokens list\ngw tokens list web -o json" }

// Run lists tokens.
func (l *TokensList) Run(ctx context.Context, c *Context) error {
	h, err := l.open(c)
	if err != nil {
		return err
	}
	res, err := h.access.ListTokens(ctx, &gwv1.ListTokensRequest{App: l.App, Namespace: l.Namespace})
	if err != nil {
		return err
	}
	t := &table{headings: []string{"TOKEN", "APP", "NAMESPACE", "BEGINS WITH", "STATE", "EXPIRES", "CREATED", "NOTE"}}
	return list(&l.Output, c, res.GetTokens(), "There are no tokens. Make one with: gw tokens create APP", t, func(token *gwv1.Token) {
		state := cell{"valid", green}
		switch {
		case token.GetRevoked():
			state = cell{"revoked", red}
		case token.GetExpiresAt() != nil && !c.now().Before(token.GetExpiresAt().AsTime()):
			state = cell{"expired", yellow}
		}
		t.add(token.GetId(), token.GetApp(), token.GetNamespace(), token.GetHint(), state, c.until(token.GetExpiresAt()), c.ago(token.GetCreatedAt()), token.GetNote())
	})
}

// TokensRevoke is "gw tokens revoke".
type TokensRevoke struct {
	Token string         `arg:"" help:"The token's ID, or - to read the credential itself from standard input."`
	Wait  *time.Duration `placeholder:"DURATION" help:"Wait until every connected edge refuses it, and exit with 3 if that does not come; default: look for 5s and say how far it got."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*TokensRevoke) Examples() string {
	return `
gw tokens revoke tok_3f9a
gw tokens revoke tok_3f9a --wait 30s
gw tokens revoke - < leaked.txt`
}

const (
	lookFor       = 5 * time.Second
	lookEvery     = 100 * time.Millisecond
	maxCredential = 128
)

// Run revokes a token and tells how far that has reached.
func (r *TokensRevoke) Run(ctx context.Context, c *Context) error {
	h, err := r.open(c)
	if err != nil {
		return err
	}
	token := r.Token
	if token == "-" {
		if token, err = c.readValue("-", maxCredential); err != nil {
			return err
		}
		token = strings.TrimSpace(token)
	}
	res, err := h.access.RevokeToken(ctx, &gwv1.RevokeTokenRequest{Token: token})
	if err != nil {
		return err
	}
	limit := lookFor
	if r.Wait != nil {
		limit = *r.Wait
	}
	reach, err := h.reach(ctx, res.GetAccessVersion(), limit)
	if err != nil {
		return fmt.Errorf("the token is revoked, but how far that has reached can't be told: %w", err)
	}
	if err := r.show(c, res, reach); err != nil {
		return err
	}
	if r.Wait != nil && len(reach.without) > 0 {
		return &ExitError{ExitWaited, fmt.Errorf("waited %s in vain: not confirmed by %s", limit, strings.Join(reach.without, ", "))}
	}
	return nil
}

func (r *TokensRevoke) show(c *Context, res *gwv1.RevokeTokenResponse, reach reach) error {
	if !r.forPeople() {
		without := make([]any, len(reach.without))
		for i, id := range reach.without {
			without[i] = id
		}
		return r.value(c, append(plainOf(res).(object), member{"connectedEdges", json.Number(itoa(reach.connected))}, member{"notConfirmedBy", without}))
	}
	text := fmt.Sprintf("Revoked. %d of %d connected edges refuse it.", reach.connected, reach.connected)
	if len(reach.without) > 0 {
		text = fmt.Sprintf("Revoked. %d of %d connected edges have confirmed that they refuse it; not yet: %s.", reach.connected-len(reach.without), reach.connected, strings.Join(reach.without[:min(maxNamed, len(reach.without))], ", "))
	}
	if reach.away > 0 {
		text += fmt.Sprintf(" Cut off: %s, until it returns or its cached answer and the offline grace run out.", counted(reach.away, "edge"))
	}
	fmt.Fprintln(c.Stdout, printable(text))
	return nil
}

// reach is how far an access change has got.
type reach struct {
	connected, away int
	without         []string // connected edges that have not confirmed it
}

// reach looks until every connected edge has confirmed an access version, or the time is over.
func (h *hub) reach(ctx context.Context, version uint64, limit time.Duration) (reach, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errTimedOut)
	defer cancel()
	// The first look is made in any case.
	found, err := h.lookAtReach(context.WithoutCancel(ctx), version)
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for err == nil && len(found.without) > 0 {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, errTimedOut) {
				return found, cause
			}
			return found, nil
		}
		var next reach
		if next, err = h.lookAtReach(ctx, version); err == nil {
			found = next
		} else if errors.Is(context.Cause(ctx), errTimedOut) {
			return found, nil
		}
	}
	return found, err
}

func (h *hub) lookAtReach(ctx context.Context, version uint64) (found reach, err error) {
	edges, err := h.listEdges(ctx, &gwv1.ListEdgesRequest{})
	for _, e := range edges {
		if e.GetConnection() != gwv1.Connection_CONNECTION_CONNECTED {
			found.away++
			continue
		}
		found.connected++
		if e.GetAccessVersion() < version {
			found.without = append(found.without, e.GetId())
		}
	}
	return found, err
}
