package gateway

import (
	"net/http"
	"sync/atomic"
	"time"

	"gw/rpc/latency"
)

// Vitals are what a gateway has done since it was made, and what it does now.
type Vitals struct {
	// Requests are those that ended; Errors of these were answered with 500 or above, whoever made that, and Refused were
	// answered by the gateway itself with 400 to 499.
	Requests, Errors, Refused uint64
	// Latency counts the requests that were no streams by how long they took; see package latency.
	Latency [latency.Buckets]uint64
	// ActiveRequests are being served, and ActiveStreams of them are streams.
	ActiveRequests, ActiveStreams int
}

// vitals are the counters behind Vitals.
type vitals struct {
	requests, errors, refused atomic.Uint64
	latency                   [latency.Buckets]atomic.Uint64
}

// count takes in an exchange that ended.
func (v *vitals) count(x *exchange, took time.Duration) {
	v.requests.Add(1)
	switch {
	case x.status >= http.StatusInternalServerError:
		v.errors.Add(1)
	case x.status >= http.StatusBadRequest && x.code != "" && !x.answered && !x.aborted:
		v.refused.Add(1)
	}
	if !x.lasting {
		v.latency[latency.Bucket(took)].Add(1)
	}
}

// Vitals returns them as they are now.
func (g *Gateway) Vitals() Vitals {
	v := Vitals{Requests: g.vitals.requests.Load(), Errors: g.vitals.errors.Load(), Refused: g.vitals.refused.Load(),
		ActiveRequests: int(g.inFlight.Load()), ActiveStreams: g.streams.len()}
	for i := range v.Latency {
		v.Latency[i] = g.vitals.latency[i].Load()
	}
	return v
}
