package raftstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// outcome is what a client knows of its command.
type outcome int

const (
	unknown     outcome = iota // it may have happened, or may happen yet
	done                       // it was applied
	refused                    // it was applied and changed nothing
	notProposed                // it is in no log
)

// history is what all clients saw.
type history struct {
	clock atomic.Int64 // of calls and returns; virtual time stands still too often

	mu      sync.Mutex
	ops     map[string][]porcupine.Operation // partition → its operations
	writes  []*saved
	counts  [4]int // by outcome
	reads   int
	worst   time.Duration // the longest call
	repeats []*repeated
}

// saved is one write of a unique value.
type saved struct {
	partition, value string
	outcome          outcome
	index            uint64 // of an applied one
	version          uint64
}

// repeated is a command that several clients sent under one key.
type repeated struct {
	name    string
	indexes []uint64 // of the answers
}

func newHistory() *history { return &history{ops: map[string][]porcupine.Operation{}} }

func (h *history) record(partition string, op porcupine.Operation, o outcome) {
	op.Return = h.clock.Add(1)
	if o == unknown {
		op.Return = math.MaxInt64
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops[partition] = append(h.ops[partition], op)
}

// client is one caller; it makes one call after another.
type client struct {
	v       *virtual
	history *history
	id      int
	rand    *rand.Rand
	hub     *virtualHub // it stays with one as long as it gets answers
	n       int
	stale   bool // it reads what a hub has, without asking whether that is the newest; a negative control
	seen    map[string]seen
}

type seen struct {
	value   string
	version uint64
}

func newClient(v *virtual, h *history, id int) *client {
	return &client{
		v: v, history: h, id: id, rand: rand.New(rand.NewPCG(v.options.seed, 100+uint64(id))), seen: map[string]seen{},
	}
}

// target is the incarnation to ask next; nil if there is none where it looked.
func (c *client) target() *life {
	if c.hub == nil {
		hubs := c.v.all()
		c.hub = hubs[c.rand.IntN(len(hubs))]
		if l := c.v.leader(); l != nil && c.rand.IntN(4) > 0 {
			c.hub = l.hub
		}
	}
	return c.hub.now()
}

func (c *client) pause(ctx context.Context, most time.Duration) {
	select {
	case <-time.After(time.Duration(c.rand.Int64N(int64(most)))):
	case <-ctx.Done():
	}
}

// propose sends a command until it knows what became of it, or has tried for long enough. A command without a key is
// not sent again once it may have been taken.
func (c *client) propose(ctx context.Context, cmd *gwv1.Command) (*gwv1.Result, outcome) {
	began := time.Now()
	result, o := c.insist(ctx, cmd)
	c.history.mu.Lock()
	defer c.history.mu.Unlock()
	c.history.counts[o]++
	c.history.worst = max(c.history.worst, time.Since(began))
	return result, o
}

func (c *client) insist(ctx context.Context, cmd *gwv1.Command) (*gwv1.Result, outcome) {
	tainted := false // an attempt may have been taken
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end) && ctx.Err() == nil; c.pause(ctx, 60*time.Millisecond) {
		l := c.target()
		if l == nil {
			c.hub = nil
			continue
		}
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		r, err := l.propose(attempt, cmd)
		cancel()
		var no *Refused
		switch {
		case err == nil:
			return r, done
		case errors.As(err, &no) && tainted:
			return nil, unknown // the earlier attempt may come after this one
		case errors.As(err, &no):
			return nil, refused
		case errors.Is(err, ErrNotProposed):
			c.hub = nil
			continue
		}
		c.hub, tainted = nil, true
		if cmd.IdempotencyKey == "" {
			return nil, unknown
		}
	}
	if tainted {
		return nil, unknown
	}
	return nil, notProposed
}

// read returns a state; nil if nobody could give one.
func (c *client) read(ctx context.Context) (*state.State, *life) {
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end) && ctx.Err() == nil; c.pause(ctx, 60*time.Millisecond) {
		l := c.target()
		if l == nil {
			c.hub = nil
			continue
		}
		if c.stale {
			c.hub = nil // another one each time
			return l.store.State(), l
		}
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		s, err := l.read(attempt)
		cancel()
		if err == nil {
			return s, l
		}
		c.hub = nil
	}
	return nil, nil
}

// calls are what clients do, and how often.
var calls = []struct {
	name   string
	weight int
	make   func(c *client, ctx context.Context)
}{
	{"register", 12, (*client).register}, {"checksum", 4, (*client).checksum}, {"consume", 2, (*client).consume},
	{"revoke", 2, (*client).revoke}, {"push", 1, (*client).push}, {"repeat", 1, (*client).repeat},
}

// run makes calls until stop ends; only of one name, unless that is "".
func (c *client) run(stop context.Context, only string) {
	ctx := context.WithoutCancel(stop)
	total := 0
	for _, k := range calls {
		total += k.weight
	}
	for stop.Err() == nil {
		c.n++
		n := c.rand.IntN(total)
		for _, k := range calls {
			if n -= k.weight; k.name == only || only == "" && n < 0 {
				k.make(c, ctx)
				break
			}
		}
		c.pause(stop, 150*time.Millisecond)
	}
}

// key is an idempotency key, for every other command.
func (c *client) key() string {
	if c.rand.IntN(2) == 0 {
		return ""
	}
	return fmt.Sprintf("k%d-%d", c.id, c.n)
}

// register makes one call about one resource.
func (c *client) register(ctx context.Context) {
	namespace := []string{"default", "other"}[c.rand.IntN(2)]
	name := fmt.Sprintf("r%d", c.rand.IntN(3))
	partition := namespace + "/" + name
	if c.rand.IntN(3) == 0 {
		c.get(ctx, namespace, name)
		return
	}
	value := fmt.Sprintf("v%d-%d", c.id, c.n)
	cmd := save(namespace, name, value)
	edit := cmd.GetChangeResources().Edits[0]
	in := registerInput{op: "put", value: value}
	known := c.seen[partition]
	switch n := c.rand.IntN(10); {
	case n < 3 && known.version > 0:
		edit.ExpectedVersion, in.op, in.expect = known.version, "cas", known.value
	case n < 4:
		edit.MustNotExist, in.op = true, "create"
	case n < 5:
		cmd = remove(namespace, name)
		in.op, in.value = "delete", ""
	case n < 6 && known.version > 0:
		cmd = remove(namespace, name)
		cmd.GetChangeResources().Edits[0].ExpectedVersion = known.version
		in.op, in.value, in.expect = "cas", "", known.value
	}
	cmd.IdempotencyKey = c.key()
	call := c.history.clock.Add(1)
	r, o := c.propose(ctx, cmd)
	if in.value != "" {
		c.wrote(partition, value, o, r)
	}
	if o == notProposed {
		return
	}
	c.history.record(partition, porcupine.Operation{ClientId: c.id, Input: in, Call: call, Output: registerOutput{outcome: o}}, o)
	if o == done && in.value != "" {
		c.seen[partition] = seen{value, r.Versions[0]}
	} else {
		delete(c.seen, partition)
	}
}

func (c *client) wrote(partition, value string, o outcome, r *gwv1.Result) {
	w := &saved{partition: partition, value: value, outcome: o}
	if r != nil {
		w.index, w.version = r.Index, r.Versions[0]
	}
	c.history.mu.Lock()
	defer c.history.mu.Unlock()
	c.history.writes = append(c.history.writes, w)
}

func (c *client) get(ctx context.Context, namespace, name string) {
	partition := namespace + "/" + name
	call := c.history.clock.Add(1)
	s, _ := c.read(ctx)
	if s == nil {
		return
	}
	out := registerOutput{outcome: done}
	delete(c.seen, partition)
	if r, ok := s.Resource("API", namespace, name); ok {
		out.value = string(r.Spec)
		c.seen[partition] = seen{out.value, r.Version}
	}
	c.history.record(partition, porcupine.Operation{ClientId: c.id, Input: registerInput{op: "get"}, Call: call, Output: out}, done)
	c.history.mu.Lock()
	defer c.history.mu.Unlock()
	c.history.reads++
}

// checksum makes one call about a whole namespace.
func (c *client) checksum(ctx context.Context) {
	const namespace = "sum"
	call := c.history.clock.Add(1)
	if c.rand.IntN(2) == 0 {
		s, l := c.read(ctx)
		if s == nil {
			return
		}
		m := l.store.Manifest(namespace)
		if m.Index < s.Index() {
			c.v.ledger.count(func() { c.v.ledger.accuse("I2: a manifest of index %d after a read of index %d", m.Index, s.Index()) })
		}
		op := porcupine.Operation{ClientId: c.id, Input: sumInput{op: "sum"}, Call: call, Output: sumOutput{done, m.Checksum}}
		c.history.record(namespace, op, done)
		return
	}
	in := sumInput{op: "put", name: fmt.Sprintf("s%d", c.rand.IntN(2)), value: fmt.Sprintf("v%d-%d", c.id, c.n)}
	cmd := save(namespace, in.name, in.value)
	if c.rand.IntN(4) == 0 {
		cmd = remove(namespace, in.name)
		in.op, in.value = "delete", ""
	}
	cmd.IdempotencyKey = c.key()
	_, o := c.propose(ctx, cmd)
	if o == notProposed {
		return
	}
	c.history.record(namespace, porcupine.Operation{ClientId: c.id, Input: in, Call: call, Output: sumOutput{outcome: o}}, o)
}

// consume makes a join token that can be used once, or uses one that somebody made.
func (c *client) consume(ctx context.Context) {
	shared := &c.v.token
	id := shared.current()
	if id == "" || c.rand.IntN(3) == 0 {
		id = fmt.Sprintf("t%d-%d", c.id, c.n)
		hash := sha256.Sum256([]byte(id))
		cmd := &gwv1.Command{Actor: "ann", IdempotencyKey: id, Body: &gwv1.Command_PutJoinToken{PutJoinToken: &gwv1.PutJoinTokenRecord{
			JoinToken: &gwv1.JoinTokenRecord{Id: id, Role: "edge", Namespace: "default", SecretHash: hash[:],
				ExpiresAt: math.MaxInt64, MaxUses: 1},
		}}}
		if _, o := c.propose(ctx, cmd); o == done {
			shared.set(id)
		}
		return
	}
	edge := fmt.Sprintf("e%d-%d", c.id, c.n)
	cmd := &gwv1.Command{Actor: "edge/" + edge, IdempotencyKey: c.key(), Body: &gwv1.Command_EnrollEdge{EnrollEdge: &gwv1.EnrollEdge{
		JoinTokenId: id, Edge: &gwv1.EdgeRecord{Id: edge, Namespace: "default", Version: id},
	}}}
	call := c.history.clock.Add(1)
	_, o := c.propose(ctx, cmd)
	if o == notProposed {
		return
	}
	op := porcupine.Operation{ClientId: c.id, Input: tokenInput{edge}, Call: call, Output: tokenOutput{outcome: o}}
	c.history.record("token/"+id, op, o)
}

// sharedToken is the join token that clients compete for.
type sharedToken struct {
	mu sync.Mutex
	id string
}

func (t *sharedToken) current() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.id
}

func (t *sharedToken) set(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.id = id
}

// revoke makes a token of an app, looks whether one is valid, or revokes it.
func (c *client) revoke(ctx context.Context) {
	shared := &c.v.credential
	id := shared.current()
	n := c.rand.IntN(6)
	if id == "" || n == 0 {
		id = fmt.Sprintf("c%d-%d", c.id, c.n)
		c.propose(ctx, &gwv1.Command{Actor: "ann", IdempotencyKey: "app" + id, Body: &gwv1.Command_PutApp{PutApp: &gwv1.PutAppRecord{
			App: &gwv1.AppRecord{Id: id, Namespace: "default", Name: id}, Create: true,
		}}})
		hash := sha256.Sum256([]byte(id))
		_, o := c.propose(ctx, &gwv1.Command{Actor: "ann", IdempotencyKey: id, Body: &gwv1.Command_PutToken{PutToken: &gwv1.PutTokenRecord{
			Token: &gwv1.TokenRecord{Id: id, AppId: id, Hash: hash[:]},
		}}})
		if o == done {
			shared.set(id)
		}
		return
	}
	in, o, out := credentialInput{revoke: n == 1}, done, credentialOutput{}
	call := c.history.clock.Add(1)
	if in.revoke {
		_, o = c.propose(ctx, &gwv1.Command{Actor: "ann", IdempotencyKey: c.key(), Body: &gwv1.Command_RevokeToken{
			RevokeToken: &gwv1.RevokeTokenRecord{Id: id},
		}})
	} else {
		s, _ := c.read(ctx)
		if s == nil {
			return
		}
		hash := sha256.Sum256([]byte(id))
		t, ok := s.TokenByHash(hash[:])
		out.valid = ok && !t.Revoked
	}
	if o == notProposed || o == refused {
		return // revoked before; it says nothing the reads don't
	}
	c.history.record("credential/"+id, porcupine.Operation{ClientId: c.id, Input: in, Call: call, Output: out}, o)
}

// push makes a release of what a hub has; that it may be refused is part of it.
func (c *client) push(ctx context.Context) {
	l := c.target()
	if l == nil {
		return
	}
	m := l.store.Manifest("default")
	c.propose(ctx, &gwv1.Command{Actor: "ann", IdempotencyKey: c.key(), Body: &gwv1.Command_PushReleases{PushReleases: &gwv1.PushReleases{
		Namespaces:     []*gwv1.NamespaceChecksum{{Namespace: "default", Checksum: m.Checksum[:]}},
		ConfirmRemoval: true,
	}}})
}

// repeat sends one command under one key from several callers at once, and once more.
func (c *client) repeat(ctx context.Context) {
	name := fmt.Sprintf("i%d-%d", c.id, c.n)
	cmd := save("default", name, name)
	cmd.IdempotencyKey = name
	rep := &repeated{name: name}
	var mu sync.Mutex
	var group sync.WaitGroup
	ask := func(id uint64) {
		other := newClient(c.v, c.history, c.id)
		other.rand = rand.New(rand.NewPCG(id, uint64(c.n)))
		if r, o := other.propose(ctx, cmd); o == done {
			mu.Lock()
			defer mu.Unlock()
			rep.indexes = append(rep.indexes, r.Index)
		}
	}
	for i := range 2 {
		group.Go(func() { ask(uint64(1000*c.id + i)) })
	}
	group.Wait()
	ask(uint64(1000*c.id + 9))
	c.history.mu.Lock()
	defer c.history.mu.Unlock()
	c.history.repeats = append(c.history.repeats, rep)
}
