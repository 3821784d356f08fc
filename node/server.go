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
	secure   bool // over TLS; http.Server sets a TLSConfig of its own otherwise
	http     *http.Server
}

// listen binds an address and returns a server for it. With a TLS configuration it speaks HTTP/2 and HTTP/1.1 over TLS;
// without one it speaks both in the clear.
func listen(name, address string, handler http.Handler, config *tls.Config, logger *slog.Logger) (*server, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for %s on %s: %w", name, address, err)
	}
	s := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		TLSConfig:         config,
		ErrorLog:          slog.NewLogLogger(logger.With("listener", name).Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(config == nil)
	return &server{name: name, listener: l, secure: config != nil, http: s}, nil
}

// serve serves until the server is closed.
func (s *server) serve() error {
	var err error
	if s.secure {
		err = s.http.ServeTLS(s.listener, "", "")
	} else {
		err = s.http.Serve(s.listener)
	}
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

// port returns the port the server listens on.
func (s *server) port() int { return s.listener.Addr().(*net.TCPAddr).Port }

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
