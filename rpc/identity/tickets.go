package identity

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// ticketPeriod is how long hubs seal TLS session tickets under one key. They take them for one more.
const ticketPeriod = 12 * time.Hour

// TicketPeriod returns the number of the period that now is in. TicketKeys changes with it.
func TicketPeriod(now time.Time) int64 { return now.Unix() / int64(ticketPeriod/time.Second) }

// TicketKeys returns the keys for tls.Config.SetSessionTicketKeys in a period. All hubs of a cluster have the same, so an
// edge that loses one hub resumes its session at the next, which saves both the signatures of a whole handshake: a fleet
// comes back in half the time. The keys are drawn from the CA's by HKDF (RFC 5869), so there is nothing to replicate, and
// whoever has the one could issue certificates anyway. The first seals; the period before is taken too, and the one after,
// for hubs whose clocks are ahead.
func (ca *CA) TicketKeys(period int64) ([][32]byte, error) {
	secret, err := ca.key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("make session ticket keys: %w", err)
	}
	var keys [][32]byte
	for _, p := range []int64{period, period - 1, period + 1} {
		key, err := hkdf.Key(sha256.New, secret, []byte(ca.clusterID), "gw session tickets "+strconv.FormatInt(p, 10), 32)
		if err != nil {
			return nil, fmt.Errorf("make session ticket keys: %w", err)
		}
		keys = append(keys, [32]byte(key))
	}
	return keys, nil
}

// lastSession keeps the newest TLS session of an edge; all hubs have one name, and so one entry. crypto/tls throws a session
// away when a handshake fails, whatever the reason. Most fail because a hub is gone or has too many at a time, and a fleet
// that came back without its sessions would cost such a hub three times as much: only after some failures in a row is the
// session what may be wrong.
type lastSession struct {
	mu      sync.Mutex // guards what follows
	session *tls.ClientSessionState
	failed  int // handshakes in a row
}

// maxSessionFailures is after how many failures in a row a session is thrown away.
const maxSessionFailures = 8

// Get implements tls.ClientSessionCache.
func (l *lastSession) Get(string) (*tls.ClientSessionState, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session, l.session != nil
}

// Put implements tls.ClientSessionCache; nil tells that a handshake failed.
func (l *lastSession) Put(_ string, s *tls.ClientSessionState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case s != nil:
		l.session, l.failed = s, 0
	case l.failed+1 < maxSessionFailures:
		l.failed++
	default:
		l.session, l.failed = nil, 0
	}
}
