package uplink

import (
	"math"
	"net/netip"
	"sync"
	"time"
)

const (
	// DefaultUnknownPerMinute is how many unknown tokens a client may show in a minute, unless settings say otherwise.
	DefaultUnknownPerMinute = 120
	// unknownPerSecond is how many all clients may show together.
	unknownPerSecond = 200
	// maxClients bounds the clients remembered. Beyond it, clients that are not share one allowance.
	maxClients = 16_384
)

// budget bounds how many questions about made-up tokens reach the hubs. Only answers that a token is unknown are charged,
// so that callers whose tokens are valid may be as many as they like behind one address. Safe for concurrent use.
type budget struct {
	perMinute float64 // of one client; 0: no bounds

	mu      sync.Mutex // guards what follows
	all     allowance
	others  allowance                   // of clients beyond maxClients
	clients map[netip.Prefix]*allowance // those with less than a whole allowance
	swept   int64
}

// allowance is a token bucket: it holds a minute's worth, or two seconds' of all clients, and fills steadily.
type allowance struct {
	left float64
	at   int64 // Unix nanoseconds of when left was true
}

func newBudget(perMinute int, now int64) *budget {
	b := &budget{perMinute: float64(perMinute), clients: make(map[netip.Prefix]*allowance)}
	b.all = allowance{left: 2 * unknownPerSecond, at: now}
	b.others = allowance{left: b.perMinute, at: now}
	return b
}

// refill brings an allowance up to now.
func (a *allowance) refill(now int64, perSecond, most float64) {
	if passed := time.Duration(now - a.at).Seconds(); passed > 0 {
		a.left = min(most, a.left+passed*perSecond)
	}
	a.at = now
}

// wait returns how long until a client, a host:port, may have another token looked into; 0: now.
func (b *budget) wait(client string, now int64) time.Duration {
	if b.perMinute <= 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all.refill(now, unknownPerSecond, 2*unknownPerSecond)
	a := b.of(client, now)
	return max(until(b.all.left, unknownPerSecond), until(a.left, b.perMinute/60))
}

// until is how long something that fills at a rate takes to hold one.
func until(left, perSecond float64) time.Duration {
	if left >= 1 {
		return 0
	}
	return time.Duration(math.Ceil((1 - left) / perSecond * float64(time.Second)))
}

// charge takes an unknown token off a client's allowance.
func (b *budget) charge(client string, now int64) {
	if b.perMinute <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all.refill(now, unknownPerSecond, 2*unknownPerSecond)
	b.all.left--
	a := b.of(client, now)
	a.left--
	if a != &b.others {
		b.clients[network(client)] = a
	}
}

// of returns a client's allowance as it is now; one that isn't remembered is whole. b.mu is held.
func (b *budget) of(client string, now int64) *allowance {
	if now-b.swept > int64(time.Minute) || len(b.clients) >= maxClients {
		b.sweep(now)
	}
	a, ok := b.clients[network(client)]
	switch {
	case ok:
	case len(b.clients) >= maxClients:
		a = &b.others
	default:
		a = &allowance{left: b.perMinute, at: now}
	}
	a.refill(now, b.perMinute/60, b.perMinute)
	return a
}

// sweep forgets clients whose allowance is whole again. b.mu is held.
func (b *budget) sweep(now int64) {
	if now == b.swept {
		return
	}
	b.swept = now
	for c, a := range b.clients {
		if a.refill(now, b.perMinute/60, b.perMinute); a.left >= b.perMinute {
			delete(b.clients, c)
		}
	}
}

// network returns what a client counts as: its IPv4 address, or the /64 an IPv6 address is in, which one client can have
// all of. What is no address is one client.
func network(client string) netip.Prefix {
	at, err := netip.ParseAddrPort(client)
	if err != nil {
		return netip.Prefix{}
	}
	address := at.Addr().Unmap().WithZone("")
	bits := 32
	if address.Is6() {
		bits = 64
	}
	p, err := address.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
