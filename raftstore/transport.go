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

// transport passes everything on to another one, but for four things. Heartbeats take the same queue as all other
// requests, because Raft's fast path for them lets a term change under the leader's feet (hashicorp/raft#695). Requests
// from this process can be put into the queue. What the others answer is noted. And what a leader asks is corrected.
type transport struct {
	peerTransport
	peers *peers
	queue chan raft.RPC
	seam  atomic.Pointer[seam] // nil: nothing is corrected

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
	for {
		select {
		case r := <-t.peerTransport.Consumer():
			if q, ok := r.Command.(*raft.AppendEntriesRequest); ok && t.seam.Load() != nil {
				r.Command = t.seam.Load().correct(q)
			}
			select {
			case t.queue <- r:
			case <-t.stop:
				return
			}
		case <-t.stop:
			return
		}
	}
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

// leadNow tells this hub's own Raft to stand for election at once. It is for the only voter there is, which would
// otherwise wait in vain for a leader first. It returns when Raft has begun, or done ends.
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
