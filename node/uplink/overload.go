package uplink

import (
	"errors"
	"net"
	"time"

	"gw/rpc/gwv1"
)

// overloaded is a hub's word for more edges at once than it lets in.
const overloaded = "overloaded"

// Bounds on how long a hub may send an edge away.
const (
	maxRetryAfter  = time.Minute
	maxRetryJitter = 5 * time.Minute
)

// comeAgain returns how long to wait before the next call, if a hub has refused one because too many edges came at once:
// at least what the hub says, and a part, r in [0, 1), of the time over which it wants those it has refused to spread.
// Such a hub is well: there is no reason to try another one.
func comeAgain(err error, r float64) (wait time.Duration, told bool) {
	d := detailOf(err)
	if d.GetReason() != overloaded {
		return 0, false
	}
	after := min(max(d.GetRetryAfter().AsDuration(), 0), maxRetryAfter)
	jitter := min(max(d.GetRetryJitter().AsDuration(), time.Second), maxRetryJitter)
	return after + time.Duration(r*float64(jitter)), true
}

// turnedAway reports whether a hub closed the connection in the middle of the handshake, as one does that has too many of
// them: with the alert that stands for no fault of the edge's.
func turnedAway(e end) bool {
	var alert *net.OpError
	return !e.reached && errors.As(e.err, &alert) && alert.Op == "remote error" && alert.Err.Error() == "tls: internal error"
}

// notThere reports whether a hub could not be dialled, and said so or was not even asked, which costs it nothing. One that
// doesn't answer in time may have more to do than it can.
func notThere(err error) bool {
	var dial *net.OpError
	return errors.As(err, &dial) && dial.Op == "dial" && !dial.Timeout()
}

// spreadTo returns how long to wait, with r in [0, 1), before going to the leader that a hub names: 0 unless so many
// edges go there that it couldn't let them all in at once.
func spreadTo(err error, r float64) time.Duration {
	return time.Duration(r * float64(min(max(detailOf(err).GetRetryJitter().AsDuration(), 0), maxRetryJitter)))
}

// fetchURLs returns the hubs that serve releases in place of one that has too many edges at once.
func fetchURLs(err error) (urls []string) {
	d := detailOf(err)
	if d.GetReason() != overloaded {
		return nil
	}
	for _, u := range d.FetchUrls {
		if checkHubURL(u) == nil {
			urls = append(urls, u)
		}
	}
	return urls
}

// takeDelivered returns the parts of the target that came with its tick, once; nil if none did.
func (u *Uplink) takeDelivered() []*gwv1.FetchReleaseResponse {
	u.mu.Lock()
	defer u.mu.Unlock()
	parts := u.delivered
	u.delivered = nil
	if len(parts) == 0 || !sameTarget(parts[0].GetHeader().GetTarget(), u.target) {
		return nil
	}
	return parts
}
