package raftstore

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/hashicorp/raft"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// restore replaces a machine's state by its own snapshot.
func restore(t *testing.T, m *machine) {
	t.Helper()
	var b bytes.Buffer
	if err := compress(&b, m.now.Load()); err != nil {
		t.Fatal(err)
	}
	if err := m.Restore(io.NopCloser(&b)); err != nil {
		t.Fatal(err)
	}
}

func TestUnknownCommandStopsTheHub(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	before := s.mustPropose(t, save("default", "a", "x")).Index
	data, err := state.EncodeCommand(&gwv1.Command{FeatureLevel: state.FeatureLevel + 1, Body: save("default", "b", "x").Body})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.raft.Apply(data, 0).Error(); err != nil && !errors.Is(err, raft.ErrRaftShutdown) {
		t.Fatal(err)
	}
	<-s.Failed()
	if !errors.Is(s.Err(), state.ErrTooOld) {
		t.Errorf("Err: %v, want binary too old", s.Err())
	}
	if s.State().Index() != before {
		t.Errorf("the state went on to %d, past the command it doesn't know", s.State().Index())
	}
	if _, err := s.machine.Snapshot(); err == nil {
		t.Error("a snapshot was taken that lacks the command")
	}
}

func TestSkippableCommandIsCounted(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	data, err := state.EncodeCommand(&gwv1.Command{FeatureLevel: state.FeatureLevel + 1, Skippable: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.raft.Apply(data, 0).Error(); err != nil {
		t.Fatal(err)
	}
	s.mustPropose(t, save("default", "a", "x"))
	if n := s.State().Cluster().SkippedCommands; n != 1 {
		t.Errorf("%d skipped, want 1", n)
	}
}

func TestConfigurationEntriesMoveTheIndex(t *testing.T) {
	m := newTestMachine()
	m.ApplyBatch([]*raft.Log{{Index: 7, Type: raft.LogConfiguration}})
	if got := m.now.Load().Index(); got != 7 {
		t.Errorf("index %d, want 7: a read of the newest entry would never end", got)
	}
}

func TestDamagedSnapshotChangesNothing(t *testing.T) {
	m := newTestMachine()
	m.apply(t, save("default", "a", "x"))
	var b bytes.Buffer
	if err := compress(&b, m.now.Load()); err != nil {
		t.Fatal(err)
	}
	was := m.now.Load()
	for _, cut := range []int{0, 1, b.Len() / 2, b.Len() - 1} {
		if err := m.Restore(io.NopCloser(bytes.NewReader(b.Bytes()[:cut]))); err == nil {
			t.Errorf("a snapshot cut to %d of %d bytes was restored", cut, b.Len())
		}
	}
	if m.now.Load() != was {
		t.Error("a damaged snapshot changed the state")
	}
}

func TestHeartbeatsTakeTheQueue(t *testing.T) {
	_, inner := raft.NewInmemTransport("here")
	tr := newTransport(inner)
	defer tr.Close()
	tr.SetHeartbeatHandler(func(raft.RPC) { t.Error("a heartbeat took the fast path") })
	_, peer := raft.NewInmemTransport("there")
	peer.Connect("here", inner)
	answered := make(chan error, 1)
	go func() {
		answered <- peer.AppendEntries("", "here", &raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{})
	}()
	r := <-tr.Consumer()
	r.Respond(&raft.AppendEntriesResponse{}, nil)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if _, ok := any(tr).(raft.WithPreVote); !ok {
		t.Error("the transport hides pre-votes")
	}
	if err := errors.Join(tr.Close(), tr.Close()); err != nil {
		t.Error(err)
	}
}
