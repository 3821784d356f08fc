package raftstore

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// peers is what this hub, as leader, has heard from the others. Raft keeps that to itself, but its requests and their
// answers pass through the transport.
type peers struct {
	now func() time.Time

	mu    sync.Mutex
	term  uint64 // of the leadership known is about
	known map[raft.ServerID]peer
}

// peer is one other hub.
type peer struct {
	match   uint64    // its log is the leader's up to here
	contact time.Time // of its last answer
}

// answered records the answer to a request.
func (p *peers) answered(id raft.ServerID, q *raft.AppendEntriesRequest, a *raft.AppendEntriesResponse) {
	if a.Term > q.Term {
		return // not to a leader any more
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if q.Term < p.term {
		return
	}
	if q.Term > p.term || p.known == nil {
		p.term, p.known = q.Term, map[raft.ServerID]peer{}
	}
	known := p.known[id]
	known.contact = p.now()
	if a.Success {
		match := q.PrevLogEntry
		if n := len(q.Entries); n > 0 {
			match = q.Entries[n-1].Index
		}
		known.match = max(known.match, match)
	}
	p.known[id] = known
}

// in returns what is known of a hub in a leadership; contact is zero if it gave no answer yet.
func (p *peers) in(term uint64, id raft.ServerID) peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	if term != p.term {
		return peer{}
	}
	return p.known[id]
}

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, to raft.ServerAddress, q *raft.AppendEntriesRequest, a *raft.AppendEntriesResponse) error {
	err := t.reach(id, to, func(at raft.ServerAddress) error { return t.peerTransport.AppendEntries(id, at, q, a) })
	if err == nil {
		t.peers.answered(id, q, a)
	}
	return err
}

// AppendEntriesPipeline implements raft.Transport.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	var inner raft.AppendPipeline
	err := t.reach(id, to, func(at raft.ServerAddress) (err error) {
		inner, err = t.peerTransport.AppendEntriesPipeline(id, at)
		return err
	})
	if err != nil {
		return nil, err
	}
	p := &pipeline{
		AppendPipeline: inner, id: id, peers: t.peers,
		answers: make(chan raft.AppendFuture), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	go p.forward()
	return p, nil
}

// pipeline passes everything on, and takes note of the answers.
type pipeline struct {
	raft.AppendPipeline
	id      raft.ServerID
	peers   *peers
	answers chan raft.AppendFuture

	closing sync.Once
	stop    chan struct{}
	stopped chan struct{}
}

// forward runs until Close, or until an answer after which Raft takes no other from the pipeline. Raft may be in the midst
// of the next request then, which would wait for ever to be answered, and with it all that this follower is to be sent;
// but heartbeats would go on, so that nobody took over (grafana/pyroscope#5518). So the pipeline ends with that answer.
func (p *pipeline) forward() {
	defer close(p.stopped)
	for {
		select {
		case f := <-p.AppendPipeline.Consumer():
			if f.Error() == nil {
				p.peers.answered(p.id, f.Request(), f.Response())
			}
			select {
			case p.answers <- f:
			case <-p.stop:
				return
			}
			if endsPipeline(f) {
				p.AppendPipeline.Close()
				return
			}
		case <-p.stop:
			return
		}
	}
}

func endsPipeline(f raft.AppendFuture) bool {
	return f.Error() != nil || !f.Response().Success || f.Response().Term > f.Request().Term
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close implements raft.AppendPipeline. Raft calls it once it waits for no more answers.
func (p *pipeline) Close() (err error) {
	p.closing.Do(func() {
		close(p.stop)
		err = p.AppendPipeline.Close()
		<-p.stopped
	})
	return err
}
