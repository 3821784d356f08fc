package uplink

import (
	"compress/gzip"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"connectrpc.com/connect"

	"gw/rpc/gwv1/gwv1connect"
)

// maxHubs bounds the hubs remembered; a cluster has a handful.
const maxHubs = 32

// route is how the leader is reached: it is the hub itself, or the hub is asked to pass calls on.
type route struct {
	hub   string
	proxy bool
	stale bool // the hub itself is asked for what it has
}

// hubList is the hubs in the order they are tried, the current one at index at.
type hubList struct {
	urls []string
	at   int
	// hintedBy is the hub that named the current one as the leader; "" if none did.
	hintedBy string
	// lost is the hub whose stream broke at lostAt: who names it as the leader soon after may not know yet that it is gone.
	lost   string
	lostAt time.Time
	// proxy: the current one passes calls on, because the leader it names is out of reach.
	proxy bool
}

func (l *hubList) len() int { return len(l.urls) }

// current returns the hub in use, "" if none is known.
func (l *hubList) current() string {
	if len(l.urls) == 0 {
		return ""
	}
	return l.urls[l.at%len(l.urls)]
}

// route returns how the current hub is used.
func (l *hubList) route() route { return route{hub: l.current(), proxy: l.proxy} }

// lead goes to the hub that the current one names as the leader. It reports whether that is another one.
func (l *hubList) lead(url string) bool {
	from := l.current()
	if url == from || checkHubURL(url) != nil {
		return false
	}
	if l.add(url); !slices.Contains(l.urls, url) {
		return false // there is no room for more
	}
	l.at, l.hintedBy, l.proxy = slices.Index(l.urls, url), from, false
	return true
}

// through goes back to the hub that named the current one, to have calls passed on. It reports whether there is one.
func (l *hubList) through() bool {
	at := slices.Index(l.urls, l.hintedBy)
	l.hintedBy = ""
	if at < 0 {
		return false
	}
	l.at, l.proxy = at, true
	return true
}

// rotate goes on to the next hub.
func (l *hubList) rotate() {
	l.hintedBy, l.proxy = "", false
	if len(l.urls) > 0 {
		l.at = (l.at + 1) % len(l.urls)
	}
}

// leave goes on to one of the other hubs after a stream broke, with r in [0, 1). A fleet that all came from one hub spreads
// over the rest.
func (l *hubList) leave(now time.Time, r float64) {
	l.hintedBy, l.proxy, l.lost, l.lostAt = "", false, l.current(), now
	if n := len(l.urls); n > 1 {
		l.at = (l.at + 1 + int(r*float64(n-1))) % n
	}
}

// doubts reports whether a hub that is named as the leader is one that was lost less than a while ago.
func (l *hubList) doubts(url string, now time.Time, while time.Duration) bool {
	return url != "" && url == l.lost && now.Sub(l.lostAt) < while
}

// add appends hubs that are not there yet and reports whether there were any.
func (l *hubList) add(urls ...string) bool {
	before := len(l.urls)
	for _, u := range urls {
		if !slices.Contains(l.urls, u) && len(l.urls) < maxHubs {
			l.urls = append(l.urls, u)
		}
	}
	return len(l.urls) > before
}

// told makes the list what hubs say, with the configured ones kept and the current one still current. Addresses that no
// hub names any more are forgotten, so a cluster can move. It reports whether the list changed.
func (l *hubList) told(urls, configured []string) bool {
	next := hubList{hintedBy: l.hintedBy, lost: l.lost, lostAt: l.lostAt, proxy: l.proxy}
	next.add(configured...)
	for _, u := range urls {
		if checkHubURL(u) == nil {
			next.add(u)
		}
	}
	if current := l.current(); current != "" {
		next.add(current)
		next.at = max(0, slices.Index(next.urls, current))
	}
	if slices.Equal(next.urls, l.urls) {
		return false
	}
	*l = next
	return true
}

// checkHubURL refuses what could send the edge's words in clear.
func checkHubURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return fmt.Errorf("hub URL %q: %w", raw, err)
	}
	if u.Scheme != "https" || u.Host == "" || u.User != nil || len(raw) > 512 {
		return fmt.Errorf("hub URL %q: want https://HOST:PORT", raw)
	}
	return nil
}

// newTransport returns an HTTP/2 transport; each certificate has its own, so that a new one is shown at once.
func newTransport(tlsConfig *tls.Config, p pace) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	connect := p.connect
	if connect == nil {
		connect = (&net.Dialer{Timeout: p.dial, KeepAlive: 15 * time.Second}).DialContext
	}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         connect,
		TLSClientConfig:     tlsConfig.Clone(), // transports change theirs; the session cache is one
		TLSHandshakeTimeout: 2 * p.dial,        // a hub that a whole fleet comes to takes its time
		Protocols:           protocols,
		IdleConnTimeout:     90 * time.Second,
		// A hub with many edges has no room for a table of each one's headers. 0 would mean the default.
		HTTP2: &http.HTTP2Config{SendPingTimeout: p.tickTimeout, PingTimeout: p.tickTimeout / 2, MaxEncoderHeaderTableSize: 1},
	}
}

// maxMessage bounds one message from a hub. Everything larger comes in parts.
const maxMessage = 16 << 20

// gzipped is what all calls have in common to read compressed answers: it takes 40 KiB, and each procedure of each client
// would otherwise keep one of its own.
var gzipped = connect.WithAcceptCompression("gzip",
	func() connect.Decompressor { return new(gzip.Reader) }, func() connect.Compressor { return gzip.NewWriter(io.Discard) })

func newClient(rt http.RoundTripper, r route) gwv1connect.EdgeServiceClient {
	switch {
	case r.proxy:
		rt = asking{rt, "Gw-Proxy", "allow"} // to pass calls on to the leader
	case r.stale:
		rt = asking{rt, "Gw-Consistency", "stale"} // for what it has, though it may not lead
	}
	return gwv1connect.NewEdgeServiceClient(&http.Client{Transport: rt}, r.hub, connect.WithReadMaxBytes(maxMessage), gzipped)
}

// asking adds a header to every call.
type asking struct {
	http.RoundTripper
	header, value string
}

// RoundTrip implements http.RoundTripper.
func (a asking) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(a.header, a.value)
	return a.RoundTripper.RoundTrip(r)
}

// client returns a client of the current hub under the certificate in use.
func (u *Uplink) client() (gwv1connect.EdgeServiceClient, error) {
	id := u.ident.Load()
	if id == nil {
		return nil, errors.New("the edge hasn't enrolled yet")
	}
	u.mu.Lock()
	r := u.hubs.route()
	u.mu.Unlock()
	return id.client(r), nil
}

// passingOn returns a client of a hub that is to pass calls on to the leader. The edge has enrolled.
func (u *Uplink) passingOn() gwv1connect.EdgeServiceClient {
	u.mu.Lock()
	at := u.hubs.current()
	u.mu.Unlock()
	return u.ident.Load().client(route{hub: at, proxy: true})
}
