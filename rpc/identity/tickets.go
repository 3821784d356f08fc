package identity

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"strconv"
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
