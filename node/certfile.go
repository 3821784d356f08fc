package node

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certFile is a certificate and its key in PEM files that somebody else renews. It is read again, at a handshake, when
// either file has changed; a pair that can't be read leaves the one before in use.
type certFile struct {
	cert, key string
	logger    *slog.Logger

	mu      sync.Mutex // guards what follows
	current *tls.Certificate
	stamp   [2]time.Time // when the files were last changed, as of the last reading
	// What was last wrong, so that it is said once and not at every handshake.
	complaint string
}

func loadCertFile(cert, key string, logger *slog.Logger) (*certFile, error) {
	f := &certFile{cert: cert, key: key, logger: logger}
	stamp, err := f.changed()
	if err != nil {
		return nil, err
	}
	return f, f.read(stamp)
}

// tlsConfig returns the server side with this certificate: TLS 1.2 or newer, HTTP/2 and 1.1.
func (f *certFile) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.get(), nil },
	}
}

func (f *certFile) get() *tls.Certificate {
	f.mu.Lock()
	defer f.mu.Unlock()
	stamp, err := f.changed()
	if err == nil && stamp != f.stamp {
		err = f.read(stamp)
	}
	if err != nil && err.Error() != f.complaint {
		f.logger.Error("the certificate files can't be read again, the former certificate stays in use", "error", err)
	}
	f.complaint = ""
	if err != nil {
		f.complaint = err.Error()
	}
	return f.current
}

func (f *certFile) changed() (stamp [2]time.Time, err error) {
	for i, path := range []string{f.cert, f.key} {
		info, err := os.Stat(path)
		if err != nil {
			return stamp, fmt.Errorf("look at the certificate files: %w", err)
		}
		stamp[i] = info.ModTime()
	}
	return stamp, nil
}

// read reads the pair. It remembers the stamp even of a bad one, so that it is tried once and not at every handshake.
func (f *certFile) read(stamp [2]time.Time) error {
	f.stamp = stamp
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return fmt.Errorf("read certificate %s with key %s: %w", f.cert, f.key, err)
	}
	f.current = &pair
	return nil
}
