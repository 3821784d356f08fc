package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// headerTimeout bounds how long a caller may take to send a request's headers.
const headerTimeout = 10 * time.Second

// server is one listener and what it serves. The socket is bound when it is made, so a port in use is an error before
// anything runs, and port 0 can be asked for and read back.
type server struct {
	name     string
	listener net.Listener
	secure   bool // its connections are TLS
	http     *http.Server
}

// listen binds an address and returns a server for it, over TLS if a configuration is given.
func listen(name, address string, handler http.Handler, config *tls.Config, logger *slog.Logger) (*server, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for %s on %s: %w", name, address, err)
	}
	if config != nil {
		l = tls.NewListener(l, config)
	}
	return newServer(name, l, config != nil, handler, logger), nil
}

// newServer returns a server for a listener, which it closes. It speaks HTTP/2 and HTTP/1.1; if secure, the listener's
// connections are *tls.Conn that negotiated one of them.
func newServer(name string, l net.Listener, secure bool, handler http.Handler, logger *slog.Logger) *server {
	s := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(logger.With("listener", name).Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(!secure)
	return &server{name: name, listener: l, secure: secure, http: s}
}

// serve serves until the server is closed.
func (s *server) serve() error {
	err := s.http.Serve(s.listener)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", s.name, err)
}

// shutdown takes no new connections, lets requests end within the grace, then cuts them.
func (s *server) shutdown(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	s.listener.Close() // for a server that never served
}

// url returns the server's address as a person on this machine reaches it.
func (s *server) url() string {
	scheme := "http"
	if s.secure {
		scheme = "https"
	}
	address := s.listener.Addr().(*net.TCPAddr)
	host := "127.0.0.1"
	if !address.IP.IsUnspecified() {
		host = address.IP.String()
	}
	return fmt.Sprintf("%s://%s", scheme, net.JoinHostPort(host, fmt.Sprint(address.Port)))
}
