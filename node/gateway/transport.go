package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	maxIdlePerHost      = 1024
	idleConnection      = 90 * time.Second
	maxUpstreamHeader   = 1 << 20
	expectContinueDelay = time.Second
	// pingAfter and pingWithin are when an HTTP/2 connection that says nothing is asked whether it lives, and how long it
	// may take to say so. Every request to an upstream may be on the one connection.
	pingAfter  = 15 * time.Second
	pingWithin = 5 * time.Second
)

// poolKey is all that a pool of connections depends on.
type poolKey struct {
	scheme, host string
	connect      time.Duration
}

func keyOf(t *target, u *upstream) poolKey {
	return poolKey{u.scheme, u.host, t.timeouts.connect}
}

// pools are the connections to upstreams. They outlive the tables that name them.
type pools struct {
	roots *x509.CertPool // nil: the system's

	mu    sync.Mutex
	byKey map[poolKey]*http.Transport // guarded by mu
}

// get returns the pool for a key, made at its first use.
func (p *pools) get(k poolKey) *http.Transport {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.byKey[k]; t != nil {
		return t
	}
	t := newTransport(k, p.roots)
	p.byKey[k] = t
	return t
}

// sweep closes the idle connections of pools that keep doesn't name, and forgets them. Requests that still use one keep
// it; what they leave behind closes by itself after a while.
func (p *pools) sweep(keep map[poolKey]struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, t := range p.byKey {
		if _, ok := keep[k]; !ok {
			t.CloseIdleConnections()
			delete(p.byKey, k)
		}
	}
}

// newTransport returns a pool. Proxies of the environment are used for https upstreams only: the path of a plain request
// would have to be rewritten for one, and is sent exactly as it came.
func newTransport(k poolKey, roots *x509.CertPool) *http.Transport {
	dialer := &net.Dialer{Timeout: k.connect, KeepAlive: 30 * time.Second}
	t := &http.Transport{
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    k.connect,
		ExpectContinueTimeout:  expectContinueDelay,
		MaxIdleConnsPerHost:    maxIdlePerHost,
		IdleConnTimeout:        idleConnection,
		MaxResponseHeaderBytes: maxUpstreamHeader,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingWithin},
	}
	if k.scheme != "https" {
		return t
	}
	t.Proxy = http.ProxyFromEnvironment
	// net/http does the handshake, so that it offers no HTTP/2 where a connection is for a WebSocket.
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	return t
}
