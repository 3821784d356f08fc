package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"gw/rpc/gwv1"
)

// credential is a token, and when it was what. Times are the fleet's; 0: not yet.
type credential struct {
	id, secret string
	// asked and revoked are when its revocation was asked for and acknowledged.
	asked, revoked time.Duration
}

// revoker makes tokens for all edges and revokes them again, through any hub.
type revoker struct {
	hubs []*process
	now  func() time.Duration

	steps  sync.Mutex // held during a step, as the pusher's
	random *rand.Rand

	mu       sync.Mutex // guards the rest
	all      []*credential
	findings []string
	note     func(format string, args ...any)
}

// callersApp is the app all tokens are of. It may call everything, at every edge.
const callersApp = "callers"

func newRevoker(c *cluster, seed uint64, now func() time.Duration, note func(string, ...any)) *revoker {
	c.t.Helper()
	v := &revoker{hubs: slices.Clone(c.hubs), now: now, random: rand.New(rand.NewPCG(seed, 2)), note: note}
	ctx, cancel := context.WithTimeout(c.t.Context(), callTimeout)
	defer cancel()
	_, err := v.hubs[0].access.CreateApp(ctx, &gwv1.CreateAppRequest{App: &gwv1.App{Name: callersApp, Namespace: "global", Targets: []string{"*"}}})
	if err != nil {
		c.t.Fatal(err)
	}
	return v
}

// run makes and revokes tokens until stop ends, and finishes what it began.
func (v *revoker) run(stop context.Context) {
	for stop.Err() == nil {
		v.step()
		select {
		case <-time.After(time.Duration(50+v.random.IntN(150)) * time.Millisecond): // a person's pause; nothing relies on it
		case <-stop.Done():
		}
	}
}

// step makes a token if there are few, else it revokes one.
func (v *revoker) step() {
	v.steps.Lock()
	defer v.steps.Unlock()
	var live []*credential
	for _, k := range v.list() {
		if k.asked == 0 {
			live = append(live, k)
		}
	}
	if len(live) < 2 {
		v.create()
		return
	}
	v.revoke(live[v.random.IntN(len(live))])
}

// create returns a new token, or nil if no hub gave one.
func (v *revoker) create() *credential {
	h := v.hubs[v.random.IntN(len(v.hubs))]
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	answer, err := h.access.CreateToken(ctx, &gwv1.CreateTokenRequest{App: callersApp, Namespace: "global"})
	if _, surprise := classify(err); surprise {
		v.find("make a token through %s: %v", h.name, err)
	}
	if err != nil {
		return nil // if it was made, nobody knows it
	}
	k := &credential{id: answer.Token.Id, secret: answer.Credential}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.all = append(v.all, k)
	return k
}

// revoke revokes a token, and returns when that was acknowledged.
func (v *revoker) revoke(k *credential) {
	v.mu.Lock()
	k.asked = v.now()
	v.mu.Unlock()
	for try := v.random.IntN(len(v.hubs)); ; try++ {
		h := v.hubs[try%len(v.hubs)]
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		_, err := h.access.RevokeToken(ctx, &gwv1.RevokeTokenRequest{Token: k.id})
		cancel()
		o, surprise := classify(err)
		if o == done {
			v.mu.Lock()
			k.revoked = v.now()
			v.mu.Unlock()
			v.note("token %s is revoked", k.id)
			return
		}
		if surprise || v.now()-k.asked > time.Minute {
			v.find("revoke token %s through %s: %v", k.id, h.name, err)
			return
		}
		time.Sleep(20 * time.Millisecond) // a client's pause; nothing relies on it
	}
}

func (v *revoker) find(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.findings = append(v.findings, fmt.Sprintf(format, args...))
}

// list is every token so far, as it is now.
func (v *revoker) list() []*credential {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.all)
}

// some returns a live token and one whose revocation was asked for, lately; nil if there is none.
func (v *revoker) some(random *rand.Rand) (live, revoked *credential) {
	v.mu.Lock()
	defer v.mu.Unlock()
	recent := v.all[max(0, len(v.all)-12):]
	for _, i := range random.Perm(len(recent)) {
		if recent[i].asked == 0 {
			live = recent[i]
		} else {
			revoked = recent[i]
		}
	}
	return live, revoked
}
