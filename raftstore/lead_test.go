package raftstore

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// unseat makes Raft believe that another hub leads a later term.
func unseat(t *testing.T, s *Store) {
	t.Helper()
	inner, ok := s.transport.peerTransport.(*raft.InmemTransport)
	if !ok {
		t.Fatal("the transport is not the one within the process")
	}
	_, peer := raft.NewInmemTransport("usurper")
	peer.Connect(inner.LocalAddr(), inner)
	heartbeat := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("usurper"), Addr: []byte("usurper")},
		Term:      s.raft.CurrentTerm() + 5,
	}
	if err := peer.AppendEntries("", inner.LocalAddr(), heartbeat, &raft.AppendEntriesResponse{}); err != nil {
		t.Fatal(err)
	}
}

func TestLeadershipLostAndWonAgain(t *testing.T) {
	c := testConfig(t.TempDir())
	c.ElectionTimeout = 50 * time.Millisecond
	s := mustOpen(t, c)
	type tour struct{ began, ended uint64 } // the open term when a duty began, and 1 when it ended
	tours, done := make(chan tour), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		done <- s.LeadDuties(ctx, func(ctx context.Context) error {
			tours <- tour{began: s.State().Cluster().OpenTerm}
			<-ctx.Done()
			tours <- tour{ended: 1}
			return ctx.Err()
		})
	}()
	first := <-tours
	unseat(t, s)
	if got := <-tours; got.ended != 1 {
		t.Fatalf("a second duty began (%v) before the first ended", got)
	}
	second := <-tours
	if second.began <= first.began+5 {
		t.Errorf("open term %d after %d, want one after the usurper's", second.began, first.began)
	}
	if _, err := s.Read(t.Context()); err != nil {
		t.Errorf("Read after the lead was won again: %v", err)
	}
	s.mustPropose(t, save("default", "a", "x"))
	cancel()
	<-tours
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Whoever doesn't lead says so, and that nothing was proposed.
func TestFollowerRefuses(t *testing.T) {
	c := testConfig(t.TempDir())
	c.ElectionTimeout = 10 * time.Second // it stays a follower for long enough
	s := mustOpen(t, c)
	before := s.State().Index()
	unseat(t, s)
	for s.Leading() { // until its own goroutine has heard of it
		_, _, changed := s.office.get()
		if s.Leading() {
			<-changed
		}
	}
	if _, err := s.Propose(t.Context(), save("default", "a", "x")); !errors.Is(err, ErrNotLeader) || !errors.Is(err, ErrNotProposed) {
		t.Errorf("Propose: %v", err)
	}
	if _, err := s.Read(t.Context()); !errors.Is(err, ErrNotLeader) {
		t.Errorf("Read: %v", err)
	}
	if got := s.State().Index(); got != before {
		t.Errorf("index %d, was %d", got, before)
	}
}

func TestErrorsOfRaft(t *testing.T) {
	for _, c := range []struct{ err, want error }{
		{raft.ErrNotLeader, ErrNotLeader},
		{raft.ErrLeadershipTransferInProgress, ErrNotProposed},
		{raft.ErrEnqueueTimeout, ErrNotProposed},
		{raft.ErrLeadershipLost, ErrUnknownOutcome},
		{raft.ErrRaftShutdown, ErrUnknownOutcome},
		{errors.New("no space left on device"), ErrUnknownOutcome},
	} {
		got := classify(c.err)
		if !errors.Is(got, c.want) || errors.Is(got, ErrNotProposed) == errors.Is(got, ErrUnknownOutcome) {
			t.Errorf("%v: got %v, want %v", c.err, got, c.want)
		}
	}
}

// tcpStream is a plain stream on loopback.
type tcpStream struct{ net.Listener }

func (s tcpStream) DialHub(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", address)
}

func TestStoreOverAStream(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := testConfig(t.TempDir())
	c.Stream = tcpStream{l}
	s := mustOpen(t, c)
	s.mustPropose(t, save("default", "a", "x"))
	members := s.raft.GetConfiguration()
	if err := members.Error(); err != nil {
		t.Fatal(err)
	}
	if got := members.Configuration().Servers[0].Address; string(got) != l.Addr().String() {
		t.Errorf("this hub's address is %s, want %s", got, l.Addr())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the stream was not closed: %v", err)
	}
}

func TestFoundingCutShortBeginsAgain(t *testing.T) {
	dir := t.TempDir()
	if _, err := loadNodeID(dir, false); err != nil {
		t.Fatal(err)
	}
	d := mustOpenDisk(t, filepath.Join(dir, "raft.db"))
	if err := d.SetUint64([]byte(keyCurrentTerm), 1); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, testConfig(dir))
}

func TestStoreWithoutNodeIDIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := mustOpenDisk(t, filepath.Join(dir, "raft.db")).Close(); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(testConfig(dir)); err == nil {
		s.Close()
		t.Error("a store took a new ID, and with it forgot whom it voted for")
	}
}
