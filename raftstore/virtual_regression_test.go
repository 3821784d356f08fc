package raftstore

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// What is known to go wrong in Raft and its transport, provoked. hashicorp/raft#661 is TestVoteIsWholeAfterACrash.

// A follower that refuses an entry ends the pipeline to it, instead of stopping it for ever (grafana/pyroscope#5518).
func TestRefusalEndsThePipeline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		v := newVirtual(t, virtualOptions{seed: 1, hubs: -1})
		defer v.close()
		open := func(name string) *transport {
			tr := newTransport(raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
				Stream: streamLayer{v.network.listen(name), ""}, MaxPool: 3, Timeout: transportTimeout, Logger: quietRaft(),
			}))
			v.tasks.Go(func() { <-v.stop; tr.Close() })
			return tr
		}
		leader, follower := open("leader"), open("follower")
		v.tasks.Go(func() {
			for {
				select {
				case r := <-follower.Consumer():
					r.Respond(&raft.AppendEntriesResponse{Success: false}, nil)
				case <-v.stop:
					return
				}
			}
		})
		p, err := leader.AppendEntriesPipeline("follower", "follower")
		if err != nil {
			t.Fatal(err)
		}
		send := func() error {
			_, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 1}, &raft.AppendEntriesResponse{})
			return err
		}
		if err := send(); err != nil {
			t.Fatal(err)
		}
		<-p.Consumer() // Raft takes no answer after this one
		for n := 0; ; n++ {
			if err := send(); err != nil {
				t.Logf("request %d after the refusal: %v", n, err)
				break
			}
			if n > 3 {
				t.Fatal("the pipeline goes on after a refusal")
			}
			time.Sleep(time.Millisecond)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
}
