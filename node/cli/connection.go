package cli

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"connectrpc.com/connect"

	"gw/rpc/gwv1/gwv1connect"
)

const (
	defaultHub = "http://127.0.0.1:7070"
	// callTimeout bounds a call that doesn't stream. A hub holds calls for up to 5 s during an election.
	callTimeout = 2 * time.Minute
	// maxAnswer bounds one message from a hub, in bytes. An effective configuration has at most 64 MiB.
	maxAnswer = 256 << 20
)

// Connection is the flags of every command that calls a hub. GW_CONFIG is for the processes that serve: where it names
// a hub's file, commands beside the hub must not trip over it.
type Connection struct {
	Hub    string `group:"hub" env:"GW_ADDR" placeholder:"URL" help:"The hub's address."`
	Token  string `group:"hub" env:"GW_TOKEN" placeholder:"TOKEN" help:"Bearer token (gwa_…) to use instead of the login's."`
	CAPin  string `group:"hub" name:"ca-pin" placeholder:"SHA256" help:"Fingerprint of the public key of the hub's CA or certificate."`
	Config string `group:"hub" env:"-" placeholder:"FILE" help:"YAML or JSON file with values for these flags."`
}

// hub is a connection's clients.
type hub struct {
	url      *url.URL
	config   gwv1connect.ConfigServiceClient
	releases gwv1connect.ReleaseServiceClient
	fleet    gwv1connect.FleetServiceClient
	access   gwv1connect.AccessServiceClient
	cluster  gwv1connect.ClusterServiceClient
	audit    gwv1connect.AuditServiceClient
	plugins  gwv1connect.PluginServiceClient
	// upload is for streams from here, which hear a refusal before their end only over HTTP/2.
	upload gwv1connect.ClusterServiceClient
	caller *caller
}

// errNotLoggedIn is what commands fail with that have no token.
var errNotLoggedIn = errors.New("not logged in")

// open returns the clients of the hub that the flags or the login name. It does not connect yet.
func (n *Connection) open(c *Context) (*hub, error) {
	saved, err := c.loadCredentials()
	if err != nil && (n.Hub == "" || n.Token == "") {
		return nil, err
	}
	address := n.Hub
	if address == "" {
		address = saved.Hub
	}
	if address == "" {
		address = defaultHub
	}
	to, err := parseHub(address)
	if err != nil {
		return nil, err
	}
	token, pin := n.Token, n.CAPin
	// A login's secrets are for the hub it was made with, and no other.
	if to.String() == saved.Hub {
		if token == "" {
			token = saved.Token
		}
		if pin == "" {
			pin = saved.CAPin
		}
	}
	if token == "" {
		return nil, &hubError{to.String(), errNotLoggedIn}
	}
	return c.dial(to, token, pin)
}

// parseHub reads a hub's URL. Without a scheme it is http on loopback and https elsewhere.
func parseHub(text string) (*url.URL, error) {
	full := text
	if !strings.Contains(text, "://") {
		full = "https://" + text
	}
	u, err := url.Parse(full)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, usageError("%q is not a hub's URL; expected something like http://127.0.0.1:7070 or https://hub.example:7070", text)
	}
	if full != text && isLoopback(u.Hostname()) {
		u.Scheme = "http"
	}
	u.Path = strings.TrimRight(u.Path, "/")
	return u, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// dial returns clients that send token, none if it is "", and trust pin, the system's roots if it is "".
func (c *Context) dial(to *url.URL, token, pin string) (*hub, error) {
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
	}
	if pin != "" && to.Scheme == "https" {
		key, err := parsePin(pin)
		if err != nil {
			return nil, usageError("--ca-pin: %w", err)
		}
		transport.TLSClientConfig = pinnedTLS(key, to.Hostname())
	}
	uploads := transport
	if to.Scheme == "http" && isLoopback(to.Hostname()) {
		uploads = transport.Clone()
		uploads.Protocols = new(http.Protocols)
		uploads.Protocols.SetUnencryptedHTTP2(true)
	}
	base := to.String()
	k := &caller{hub: base, token: token, context: c}
	options := []connect.ClientOption{connect.WithInterceptors(k), connect.WithReadMaxBytes(maxAnswer), connect.WithSendGzip(), connect.WithCompressMinBytes(4096)}
	client := clientOf(transport)
	return &hub{
		url:      to,
		config:   gwv1connect.NewConfigServiceClient(client, base, options...),
		releases: gwv1connect.NewReleaseServiceClient(client, base, options...),
		fleet:    gwv1connect.NewFleetServiceClient(client, base, options...),
		access:   gwv1connect.NewAccessServiceClient(client, base, options...),
		cluster:  gwv1connect.NewClusterServiceClient(client, base, options...),
		audit:    gwv1connect.NewAuditServiceClient(client, base, options...),
		plugins:  gwv1connect.NewPluginServiceClient(client, base, options...),
		upload:   gwv1connect.NewClusterServiceClient(clientOf(uploads), base, options...),
		caller:   k,
	}, nil
}

func clientOf(transport *http.Transport) *http.Client {
	return &http.Client{
		Transport: transport,
		// A redirect could carry the token to another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// hubError is an error of a call, with the hub that was called.
type hubError struct {
	hub string
	err error
}

func (e *hubError) Error() string { return fmt.Sprintf("call hub %s: %v", e.hub, e.err) }
func (e *hubError) Unwrap() error { return e.err }
