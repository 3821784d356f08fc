package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

// Login is "gw login".
type Login struct {
	URL          string        `arg:"" optional:"" help:"The hub's address; default: the last one, else http://127.0.0.1:7070."`
	User         string        `short:"u" help:"Name to log in as; asked for on a terminal."`
	PasswordFile string        `placeholder:"FILE" help:"File with the password, - for standard input; else it is asked for on a terminal, or read from standard input."`
	TTL          time.Duration `name:"ttl" placeholder:"DURATION" help:"How long the login shall last, at most 2160h; default: the hub's, 24h."`
	Token        string        `env:"-" placeholder:"TOKEN" help:"Remember this bearer token (gwa_…) instead of making one with a password."`
	CAPin        string        `name:"ca-pin" placeholder:"SHA256" help:"Trust the hub only if its CA's or its own certificate has this fingerprint."`
	Config       string        `env:"-" placeholder:"FILE" help:"YAML or JSON file with values for these flags."`
}

// Examples returns the examples of the command's help.
func (*Login) Examples() string {
	return `
gw login http://127.0.0.1:7070
gw login https://hub.example:7070 --user admin --password-file ./password
gw login https://hub.example:7070 --ca-pin sha256:9f86d081884c7d65…`
}

// Run logs in and remembers it.
func (l *Login) Run(ctx context.Context, c *Context) error {
	saved, err := c.loadCredentials()
	if err != nil {
		c.say("gw: %v", err) // it is about to be replaced
	}
	address := l.URL
	for _, next := range []string{saved.Hub, defaultHub} {
		if address == "" {
			address = next
		}
	}
	to, err := parseHub(address)
	if err != nil {
		return err
	}
	known := ""
	if to.String() == saved.Hub {
		known = saved.CAPin
	}
	pin, err := l.trust(ctx, c, to, known)
	if err != nil {
		return err
	}
	made, err := l.signIn(ctx, c, to, pin)
	if err != nil {
		return err
	}
	path, err := c.saveCredentials(*made)
	if err != nil {
		return err
	}
	until := "without an end"
	if !made.ExpiresAt.IsZero() {
		until = "until " + made.ExpiresAt.Local().Format(time.DateTime)
	}
	c.say("Logged in to %s as %s %s (remembered in %s).", made.Hub, made.User, until, path)
	return nil
}

// trust returns the pin to use with the hub, "" for none. known is the one used before.
func (l *Login) trust(ctx context.Context, c *Context, to *url.URL, known string) (string, error) {
	if to.Scheme == "http" {
		if !isLoopback(to.Hostname()) {
			c.say("gw: warning: %s is neither https nor this machine, so what follows can be read on the way, passwords included", to)
		}
		return "", nil
	}
	shown, err := probe(ctx, to)
	if err != nil {
		return "", &hubError{to.String(), err}
	}
	if l.CAPin != "" {
		pin, err := parsePin(l.CAPin)
		if err != nil {
			return "", usageError("--ca-pin: %w", err)
		}
		if err := verifyPinned(shown.chain, pin, to.Hostname()); errors.Is(err, errWrongPin) {
			return "", fmt.Errorf("%s shows no certificate with the fingerprint %s: it is another hub, or someone is in between", to, formatPin(pin))
		} else if err != nil {
			return "", &hubError{to.String(), err}
		}
		return formatPin(pin), nil
	}
	if shown.trusted {
		return "", nil
	}
	cert := shown.pinnable(to.Hostname())
	pin := formatPin(identity.PinOf(cert))
	if pin == known {
		return pin, nil
	}
	c.say("This machine doesn't know the certificate of %s:\n  subject      %s\n  fingerprint  %s", to, cert.Subject, pin)
	if known != "" {
		c.say("It is NOT the one you trusted before: %s", known)
	}
	return pin, c.confirm(ctx, "Is that the fingerprint the hub printed when it started, and do you trust it", "--ca-pin "+pin)
}

// signIn makes a bearer token, or checks the one given.
func (l *Login) signIn(ctx context.Context, c *Context, to *url.URL, pin string) (*credentials, error) {
	h, err := c.dial(to, l.Token, pin)
	if err != nil {
		return nil, err
	}
	made := &credentials{Hub: to.String(), Token: l.Token, CAPin: pin}
	if l.Token != "" {
		who, err := h.access.WhoAmI(ctx, &gwv1.WhoAmIRequest{})
		if err != nil {
			return nil, err
		}
		made.User = who.GetUser()
		return made, nil
	}
	req := new(gwv1.SignInRequest)
	if req.User, err = l.user(ctx, c); err != nil {
		return nil, err
	}
	if req.Password, err = l.password(ctx, c, req.User); err != nil {
		return nil, err
	}
	if l.TTL != 0 {
		req.Ttl = durationpb.New(l.TTL)
	}
	res, err := h.access.SignIn(ctx, req)
	if err != nil {
		return nil, err
	}
	made.Token, made.User, made.ExpiresAt = res.GetBearerToken(), res.GetWho().GetUser(), timeOf(res.GetExpiresAt())
	return made, nil
}

func (l *Login) user(ctx context.Context, c *Context) (string, error) {
	if l.User != "" {
		return l.User, nil
	}
	if !c.interactive() {
		return "", usageError("whom to log in as: there is no terminal to ask on; pass --user")
	}
	name, err := c.ask(ctx, "User [admin]: ")
	if name == "" {
		name = "admin"
	}
	return name, err
}

const maxPassword = 1024

func (l *Login) password(ctx context.Context, c *Context, user string) (string, error) {
	if l.PasswordFile != "" {
		return c.readValue(l.PasswordFile, maxPassword)
	}
	if c.interactive() {
		return c.askSecret(ctx, "Password of "+user+": ")
	}
	password, err := c.readValue("-", maxPassword)
	if err != nil {
		return "", usageError("the password of %s: there is no terminal to ask on, and %w; pass --password-file", user, err)
	}
	return password, nil
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// Logout is "gw logout".
type Logout struct{}

// Examples returns the examples of the command's help.
func (*Logout) Examples() string { return "gw logout" }

// Run ends the session at the hub, if it answers, and forgets it here in any case.
func (*Logout) Run(ctx context.Context, c *Context) error {
	saved, err := c.loadCredentials()
	if err == nil && saved.Token == "" {
		c.say("You were not logged in.")
		return nil
	}
	if err == nil {
		err = saved.signOut(ctx, c)
	}
	if err != nil {
		c.say("gw: the token could not be ended at the hub, it lives until it expires: %s", Explain(err))
	}
	if err := c.forgetCredentials(); err != nil {
		return err
	}
	c.say("Logged out.")
	return nil
}

func (saved *credentials) signOut(ctx context.Context, c *Context) error {
	to, err := parseHub(saved.Hub)
	if err != nil {
		return err
	}
	h, err := c.dial(to, saved.Token, saved.CAPin)
	if err != nil {
		return err
	}
	_, err = h.access.SignOut(ctx, &gwv1.SignOutRequest{})
	return err
}

// WhoAmI is "gw whoami".
type WhoAmI struct {
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*WhoAmI) Examples() string { return "gw whoami\ngw whoami -o json" }

// Run shows the user and the hub.
func (w *WhoAmI) Run(ctx context.Context, c *Context) error {
	h, err := w.open(c)
	if err != nil {
		return err
	}
	who, err := h.access.WhoAmI(ctx, &gwv1.WhoAmIRequest{})
	if err != nil {
		return err
	}
	if !w.forPeople() {
		return w.value(c, append(object{{"hub", h.url.String()}}, plainOf(who).(object)...))
	}
	t := &table{headings: []string{"USER", "ROLE", "NAMESPACES", "HUB"}}
	t.add(who.GetUser(), who.GetRole(), orAll(who.GetNamespaces()), h.url.String())
	return t.write(c.Stdout, c.colors(c.Stdout))
}
