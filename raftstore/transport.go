package raftstore

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// peerTransport is what both of Raft's transports can do.
type peerTransport interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
}

// transport passes everything on to another one, but for seven things. Heartbeats take the same queue as all other
// requests, because Raft's fast path for them lets a term change under the leader's feet (hashicorp/raft#695). Requests
// from this process can be put into the queue. What the others answer is noted. What a leader asks is corrected. A vote
// is not kept back for a leader that has fallen silent and is gone. And a hub that stands because of that doesn't ask for
// votes in the leader's name. Other hubs are looked for where they call from, if they are not where they should be.
type transport struct {
	peerTransport
	peers       *peers
	whereabouts whereabouts
	queue       chan raft.RPC
	seam        atomic.Pointer[seam] // nil: nothing is corrected

	askedToVote atomic.Pointer[func(*raft.RequestVoteRequest) (free bool)] // nil: not to be told. It takes a while.
	unbidden    atomic.Bool                                                // this hub last stood of its own accord, not the leader's

	closing sync.Once
	stop    chan struct{}
	stopped chan struct{}
}

func newTransport(inner peerTransport) *transport {
	t := &transport{
		peerTransport: inner, peers: &peers{now: time.Now},
		queue: make(chan raft.RPC), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	go t.forward()
	return t
}

// forward runs until Close.
func (t *transport) forward() {
	defer close(t.stopped)
	var votes sync.WaitGroup
	defer votes.Wait()
	for {
		select {
		case r := <-t.peerTransport.Consumer():
			if q, ok := r.Command.(raft.WithRPCHeader); ok {
				t.whereabouts.note(q.GetRPCHeader())
			}
			switch q := r.Command.(type) {
			case *raft.AppendEntriesRequest:
				if t.seam.Load() != nil {
					r.Command = t.seam.Load().correct(q)
				}
			case *raft.RequestVoteRequest:
				votes.Go(func() { t.enqueue(t.unbound(r, q)) })
				continue
			case *raft.TimeoutNowRequest:
				t.unbidden.Store(false)
			}
			t.enqueue(r)
		case <-t.stop:
			return
		}
	}
}

func (t *transport) enqueue(r raft.RPC) {
	select {
	case t.queue <- r:
	case <-t.stop:
	}
}

// unbound returns a request for a vote as one that is not to be refused for the leader's sake, if that is gone. Raft has a
// mark for it: what a leader that hands over has its heir say.
func (t *transport) unbound(r raft.RPC, q *raft.RequestVoteRequest) raft.RPC {
	asked := t.askedToVote.Load()
	if asked == nil || q.LeadershipTransfer || !(*asked)(q) {
		return r
	}
	marked := *q
	marked.LeadershipTransfer = true
	r.Command = &marked
	return r
}

// RequestVote implements raft.Transport. A hub that stands of its own accord doesn't speak for the leader: others may hear
// from it still.
func (t *transport) RequestVote(id raft.ServerID, to raft.ServerAddress, q *raft.RequestVoteRequest, a *raft.RequestVoteResponse) error {
	if q.LeadershipTransfer && t.unbidden.Load() {
		unmarked := *q
		unmarked.LeadershipTransfer = false
		q = &unmarked
	}
	return t.reach(id, to, func(at raft.ServerAddress) error { return t.peerTransport.RequestVote(id, at, q, a) })
}

// Consumer implements raft.Transport.
func (t *transport) Consumer() <-chan raft.RPC { return t.queue }

// SetHeartbeatHandler implements raft.Transport by not having a fast path.
func (t *transport) SetHeartbeatHandler(func(raft.RPC)) {}

// Close implements raft.WithClose. It may be called more than once.
func (t *transport) Close() (err error) {
	t.closing.Do(func() {
		close(t.stop)
		<-t.stopped
		err = t.peerTransport.Close()
	})
	return err
}

// stand has this hub's own Raft stand for election at once, without leave of the leader. It gives up when done ends.
func (t *transport) stand(done <-chan struct{}) {
	t.unbidden.Store(true)
	t.leadNow(done)
}

// leadNow tells this hub's own Raft to stand for election at once, for who would otherwise wait in vain for a leader first.
// It returns when Raft has begun, or done ends.
func (t *transport) leadNow(done <-chan struct{}) {
	request := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}
	answer := make(chan raft.RPCResponse, 1)
	select {
	case t.queue <- raft.RPC{Command: request, RespChan: answer}:
	case <-done:
		return
	}
	select {
	case <-answer:
	case <-done:
	}
}
