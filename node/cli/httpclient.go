package cli

import "net/http"

// HTTPClient returns the URL of the hub that the flags or the login name, and a client that is authorized there. It does
// not connect yet.
func (n *Connection) HTTPClient(c *Context) (base string, client *http.Client, err error) {
	h, err := n.open(c)
	if err != nil {
		return "", nil, err
	}
	pin := n.CAPin
	if saved, err := c.loadCredentials(); err == nil && pin == "" && saved.Hub == h.url.String() {
		pin = saved.CAPin
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if pin != "" && h.url.Scheme == "https" {
		key, err := parsePin(pin)
		if err != nil {
			return "", nil, usageError("--ca-pin: %w", err)
		}
		transport.TLSClientConfig = pinnedTLS(key, h.url.Hostname())
	}
	client = clientOf(transport)
	client.Transport = &bearer{h.caller.token, h.url.Host, transport}
	return h.url.String(), client, nil
}

// bearer adds a token to calls of one host.
type bearer struct {
	token, host string
	next        http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == b.host {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return b.next.RoundTrip(r)
}
