package gateway

import (
	"errors"
	"sync"
	"sync/atomic"
)

var errCut = errors.New("the token was revoked or the gateway stops")

// streams are the exchanges that may last: answers that stream, and upgraded connections.
type streams struct {
	cuts atomic.Uint64 // how often cut was called

	mu      sync.Mutex
	running map[*exchange]struct{} // guarded by mu
}

// add enters an exchange. False: streams were cut since its token was checked, so it has to be checked again first.
func (s *streams) add(x *exchange) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.app != nil && s.cuts.Load() != x.cuts {
		return false
	}
	s.running[x] = struct{}{}
	return true
}

func (s *streams) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.running)
}

func (s *streams) remove(x *exchange) {
	s.mu.Lock()
	delete(s.running, x)
	s.mu.Unlock()
}

func (s *streams) cut(match func(hash [32]byte, app *App) bool) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cuts.Add(1)
	for x := range s.running {
		if x.app != nil && match(x.hash, x.app) {
			x.cancel(errCut)
			n++
		}
	}
	return n
}

func (s *streams) cutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := range s.running {
		x.cancel(errCut)
	}
}

// lasts enters the exchange among the streams, after its token was checked again if need be.
func (x *exchange) lasts() *refusal {
	x.lasting = true
	for !x.g.streams.add(x) {
		x.cuts = x.g.streams.cuts.Load()
		if x.vouched {
			continue // there is no token to be looked up
		}
		app, err := x.g.auth.Authenticate(x.r.Context(), x.hash, x.r.RemoteAddr)
		if err != nil || app == nil {
			return x.unauthenticated(err)
		}
	}
	return nil
}
